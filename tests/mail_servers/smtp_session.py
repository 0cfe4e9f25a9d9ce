"""An SMTP session over STARTTLS: logs in, and then sends each line of standard input and prints the reply.

smtp_session.py PORT USER MECHANISM; the password is the first line. A line that is "DATA-END" ends a message.
"""

import smtplib
import ssl
import sys

port, user, mechanism = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE

client = smtplib.SMTP("127.0.0.1", int(port), timeout=60)
client.starttls(context=context)
client.ehlo()
client.user, client.password = user, sys.stdin.readline().rstrip("\n")


def say(code, text):
    print(code, text.decode(), flush=True)


try:
    say(*client.auth(mechanism, getattr(client, "auth_" + mechanism.lower())))
except smtplib.SMTPAuthenticationError as error:
    say(error.smtp_code, error.smtp_error)
for line in sys.stdin:
    line = line.rstrip("\n")
    try:
        client.send("Subject: hello\r\n\r\nbody\r\n.\r\n" if line == "DATA-END" else line + "\r\n")
        say(*client.getreply())
    except (OSError, smtplib.SMTPServerDisconnected) as error:
        print("closed", error, flush=True)
