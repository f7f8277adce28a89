"""Answers with the target; notes what it saw, a line each. `python aiohttp_program.py SOCKET REPORTS`"""
import asyncio
import json
import os
import sys

from aiohttp import web

reports = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


async def program(request):
    fields = [[name.decode("latin-1").lower(), value.decode("latin-1")]
              for name, value in request.raw_headers]
    line = json.dumps({"id": request.headers.get("X-Request-Id", ""), "fields": fields})
    os.write(reports, line.encode() + b"\n")
    await request.read()
    return web.Response(text=request.raw_path, headers={"X-Program": "aiohttp"})


async def main():
    runner = web.ServerRunner(web.Server(program, keepalive_timeout=75))
    await runner.setup()
    await web.UnixSite(runner, sys.argv[1]).start()
    await asyncio.Event().wait()


asyncio.run(main())
