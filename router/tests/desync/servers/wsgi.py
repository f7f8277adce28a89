"""Answers with the target; notes what it saw, a line each. For gunicorn and waitress; the file of
reports is REPORTS in the environment."""
import json
import os
import sys

reports = os.open(os.environ["REPORTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def program(environ, start_response):
    fields = [[key[5:].replace("_", "-").lower(), str(value)]
              for key, value in environ.items() if key.startswith("HTTP_")]
    line = json.dumps({"id": environ.get("HTTP_X_REQUEST_ID", ""), "fields": fields})
    os.write(reports, line.encode() + b"\n")
    environ["wsgi.input"].read()
    body = environ.get("PATH_INFO", "").encode("latin-1", "replace")
    start_response("200 OK", [("X-Program", "wsgi"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


if __name__ == "__main__":
    import waitress
    waitress.serve(program, unix_socket=sys.argv[1], threads=16, channel_timeout=75)
