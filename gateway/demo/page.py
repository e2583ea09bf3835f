"""What the demo prints when it is ready: commands that work as they are, pasted into any shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from gateway.demo.partners import Partner

_PAGE = """\

The gateway serves real records at {base_url}. Ctrl-C stops all of it.
Paste into another terminal; each command works by itself, as the partner {tenant}.

Earthquakes as Server-Sent Events, as NDJSON, by HTTP pull, over WebSocket:
  {curl} -N {earthquakes}/sse
  {curl} -N {earthquakes}/ndjson
  {curl} '{earthquakes}/records?from=earliest&limit=3'
  {tail}

Read three, then go on where that ended, over another protocol (the id of every record is such a cursor too):
  CURSOR=$({curl} '{earthquakes}/records?from=earliest&limit=3' | {cut})
  {curl} -N "{earthquakes}/sse?cursor=$CURSOR"

Flights, of which this partner gets those of its own airport; and the list of what it may read:
  {curl} -N {base_url}/v1/streams/flights/sse
  {curl} {base_url}/v1/streams

Health      {admin_url}/readyz
Metrics     {admin_url}/metrics
All of it   {report} (addresses and tokens, for programs)
Token       {token}
            (good for {hours} hours)

"""

_CUT = """python3 -c 'import json, sys; print(json.load(sys.stdin)["next_cursor"])'"""


def welcome(partner: Partner, *, base_url: str, admin_url: str, report: Path, ttl_seconds: int) -> str:
    """The page. Each command reads its token from the partner's file, so it needs no other line before it."""
    token = f'"$(cat {shlex.quote(str(partner.token_path))})"'
    return _PAGE.format(
        base_url=base_url,
        admin_url=admin_url,
        tenant=partner.tenant,
        earthquakes=f"{base_url}/v1/streams/earthquakes",
        curl=f'curl -sS -H "Authorization: Bearer $(cat {shlex.quote(str(partner.token_path))})"',
        tail=f"{_own_command()} tail earthquakes --protocol ws --url {base_url} --token {token}",
        cut=_CUT,
        report=report,
        token=partner.token,
        hours=ttl_seconds // 3600,
    )


def _own_command() -> str:
    """How this program is called from the working directory: ``gateway`` where PATH leads to it, else its path."""
    started = Path(sys.argv[0])
    found = shutil.which("gateway")
    if not started.is_file() or (found is not None and Path(found).resolve() == started.resolve()):
        return "gateway"
    return shlex.quote(str(started))
