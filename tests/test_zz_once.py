from tests.test_behind_nginx import *
import time
async def test_lat(behind):
    for name, partner in (("direct", Partner(behind.gateways[0].base_url, behind.deployment.token())), ("nginx h2+tls", behind.partner)):
        for proto in PROTOCOLS:
            async with partner.open(proto,"marks") as s:
                ms=[]
                for i in range(120):
                    t=time.perf_counter(); await behind.produce(str(i))
                    t1=time.perf_counter(); await s.records(1); ms.append((time.perf_counter()-t1)*1e3)
                ms.sort(); print(name, proto, "p50 %.1f p99 %.1f max %.1f"%(ms[60],ms[118],ms[-1]))
    async with behind.streams() as st:
        await behind.produce("x"); await hear(st,"x")
    t=time.perf_counter()
    async def none(): return await behind.open_streams()==[0,0]
    await eventually(none); print("freed after ms", (time.perf_counter()-t)*1e3)
