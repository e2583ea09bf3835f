"""What the demo prints when it is ready: commands that work as they are, pasted into any shell."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from gateway.demo.partners import Partner

_PAGE = """\

The gateway serves real records at {base_url}. Ctrl-C stops all of it.
Paste into another terminal; each line works by itself, as the partner {tenant}.

Earthquakes as Server-Sent Events, as NDJSON, by HTTP pull, over WebSocket:
  curl -N {bearer} {earthquakes}/sse
  curl -N {bearer} {earthquakes}/ndjson
  curl {bearer} '{earthquakes}/records?from=earliest&limit=3'
  {command} tail earthquakes --protocol ws --url {base_url} --token "$(cat {token_path})"

Read three, then go on from there over another protocol (the id of each record is such a cursor):
  CURSOR=$(curl -s {bearer} '{earthquakes}/records?from=earliest&limit=3' | {cut})
  curl -N {bearer} "{earthquakes}/sse?cursor=$CURSOR"

Flights, of which this partner gets its own airport's; and what else it may read:
  curl -N {bearer} {base_url}/v1/streams/flights/sse
  curl {bearer} {base_url}/v1/streams

What it may, what it has read (seconds after), and what that costs so far (a draft, then all statements):
  curl {bearer} {base_url}/v1/limits
  curl {bearer} -H 'Accept: text/csv' {base_url}/v1/usage
  curl -H "Authorization: Bearer $(cat {operator_path})" -d '{preview}' {admin_url}/admin/statements
  curl {bearer} {base_url}/v1/statements

Health    {admin_url}/readyz
Metrics   {admin_url}/metrics
Programs  find addresses and tokens in {report}
Token     {token}
          (good for {hours} hours)

"""

_CUT = """python3 -c 'import json, sys; print(json.load(sys.stdin)["next_cursor"])'"""


def welcome(
    partner: Partner,
    *,
    base_url: str,
    admin_url: str,
    operator_path: Path,
    month: tuple[str, str],
    report: Path,
    ttl_seconds: int,
) -> str:
    """The page. Each command reads its token from a file, so it needs no other line before it. ``month`` are the
    moments (RFC 3339) between which a statement is drafted."""
    token_path = shlex.quote(str(partner.token_path))
    return _PAGE.format(
        base_url=base_url,
        admin_url=admin_url,
        tenant=partner.tenant,
        earthquakes=f"{base_url}/v1/streams/earthquakes",
        bearer=f'-H "Authorization: Bearer $(cat {token_path})"',
        command=_own_command(),
        token_path=token_path,
        operator_path=shlex.quote(str(operator_path)),
        preview=json.dumps({"tenant": partner.tenant, "from": month[0], "to": month[1]}),
        cut=_CUT,
        report=report,
        token=partner.token,
        hours=ttl_seconds // 3600,
    )


def _own_command() -> str:
    """This installation's ``gateway`` as it is called from any directory, with or without its venv active."""
    script = Path(sys.executable).with_name("gateway")
    return shlex.quote(str(script)) if script.is_file() else f"{shlex.quote(sys.executable)} -m gateway"
