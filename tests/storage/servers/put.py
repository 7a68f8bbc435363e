#!/usr/bin/env python3
"""Makes a bucket, or an object from a file, on an S3 server; signed apart from the program's own code.

  put.py BUCKET[/KEY] [FILE]        AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
"""
import datetime
import hashlib
import hmac
import http.client
import os
import sys
import urllib.parse


def main() -> None:
    path = "/" + urllib.parse.quote(sys.argv[1])
    body = open(sys.argv[2], "rb").read() if len(sys.argv) > 2 else b""
    host = urllib.parse.urlparse(os.environ["AWS_ENDPOINT_URL"]).netloc
    region = os.environ["AWS_REGION"]
    time = datetime.datetime.utcnow().strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": time}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"PUT\n{path}\n\n{lines}\n{names}\n{digest}"
    scope = f"{time[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for step in scope.split("/") + [text]:
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope},"
        f"SignedHeaders={names},Signature={key.hex()}")
    connection = http.client.HTTPConnection(host)
    connection.request("PUT", path, body, headers)
    answer = connection.getresponse()
    if answer.status not in (200, 201):
        sys.exit(f"PUT {path}: HTTP {answer.status} {answer.read().decode()}")


main()
