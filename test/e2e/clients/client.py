"""For each line of its input, `kept|new user n url`: asks n times as the user,
over kept connections or each over a new one, and prints each answer's status
and type. The argument says with what: urllib (new ones only) or requests."""
import sys


def with_urllib():
    import urllib.error
    import urllib.request

    def get(kept, url, headers):
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30)
        except urllib.error.HTTPError as e:
            response = e
        with response:
            response.read()
            return response.status, response.headers["Content-Type"]

    return get


def with_requests():
    import requests
    session = requests.Session()

    def get(kept, url, headers):
        response = (session if kept else requests).get(url, headers=headers, timeout=30)
        return response.status_code, response.headers["Content-Type"]

    return get


get = {"urllib": with_urllib, "requests": with_requests}[sys.argv[1]]()
for line in sys.stdin:
    connections, user, n, url = line.split()
    answers = []
    for _ in range(int(n)):
        try:
            answers.append("%d:%s" % get(connections == "kept", url, {"X-User-ID": user}))
        except Exception as e:
            answers.append("failed")
            print(e, file=sys.stderr)
    print(*answers, flush=True)
