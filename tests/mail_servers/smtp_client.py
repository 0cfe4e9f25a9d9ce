"""An SMTP client that does what it is told, one JSON object a line, and says what the server answered.

The session stays open between the lines, so that a test can revoke a password in between. smtplib does the talking.
"""
import base64
import json
import smtplib
import socket
import ssl
import sys

# A test sees an answer or a failure, and waits for neither longer than this, in seconds.
TIMEOUT = 60

client = None


def answer(code, text):
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return {"code": code, "text": text}


def connect(order):
    global client
    client = smtplib.SMTP(timeout=TIMEOUT)
    greeting = answer(*client.connect("127.0.0.1", order["port"]))
    client._host = "mail.example"
    return greeting


def starttls(_):
    client.ehlo("client.example")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    done = answer(*client.starttls(context=context))
    client.ehlo("client.example")
    return done


def auth(order):
    user, password = order["user"], order["password"]
    encode = lambda text: base64.b64encode(text.encode()).decode()
    if order["mechanism"] == "PLAIN":
        return answer(*client.docmd("AUTH", "PLAIN " + encode(f"\0{user}\0{password}")))
    if order["mechanism"] == "PLAIN-ASKED":
        code, text = client.docmd("AUTH", "PLAIN")
        return answer(*client.docmd(encode(f"\0{user}\0{password}"))) if code == 334 else answer(code, text)
    code, text = client.docmd("AUTH", "LOGIN")
    if code == 334:
        code, text = client.docmd(encode(user))
    if code == 334:
        code, text = client.docmd(encode(password))
    return answer(code, text)


def command(order):
    return answer(*client.docmd(order["line"]))


def send(order):
    """Bytes without waiting for an answer."""
    client.send(order["text"].encode())
    return answer(0, "")


def read(_):
    return answer(*client.getreply())


def at_end(_):
    """Whether the server has closed the connection."""
    client.sock.settimeout(30)
    try:
        return answer(1 if client.sock.recv(1) == b"" else 0, "")
    except (ConnectionError, socket.timeout, ssl.SSLError) as problem:
        return answer(1 if isinstance(problem, ConnectionError) else 0, problem)


def logins(order):
    """So many logins, each on a connection of its own: how often each code was answered."""
    codes = {}
    for _ in range(order["count"]):
        try:
            connect(order)
            starttls(order)
            code = auth(order)["code"]
        except smtplib.SMTPServerDisconnected:
            code = "closed"
        codes[str(code)] = codes.get(str(code), 0) + 1
        client.close()
    return answer(0, json.dumps(codes))


def close(_):
    client.close()
    return answer(0, "")


for line in sys.stdin:
    order = json.loads(line)
    try:
        done = globals()[order["do"]](order)
    except (smtplib.SMTPException, OSError) as problem:
        done = answer(-1, f"{type(problem).__name__}: {problem}")
    print(json.dumps(done), flush=True)
