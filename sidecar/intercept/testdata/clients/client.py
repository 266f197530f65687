"""For each line of its input, a URL: asks for it anew and prints the status
and the body. The argument says with what: urllib or requests. All hosts are at
127.0.0.1; nothing else differs from an ordinary program."""
import socket
import sys

resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *a, **k: resolve("127.0.0.1", *a, **k)


def urllib_get(url):
    import urllib.request
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.status, response.read().decode()


def requests_get(url):
    import requests
    response = requests.get(url, timeout=30)
    return response.status_code, response.text


get = {"urllib": urllib_get, "requests": requests_get}[sys.argv[1]]
for line in sys.stdin:
    try:
        print(*get(line.strip()), flush=True)
    except Exception as e:
        print("failed:", e, flush=True)
