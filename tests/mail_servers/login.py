"""Logs in as a mail program would, and prints what the server said.

login.py PROTOCOL HOST PORT TLS USER, with the password on standard input. TLS is "tls" or "starttls". Prints "OK", or the kind of
the refusal and the server's words.
"""

import imaplib
import poplib
import smtplib
import ssl
import sys

protocol, host, port, tls, user = sys.argv[1:]
password = sys.stdin.readline().rstrip("\n")
# The certificate is of the test's own making.
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE

try:
    if protocol == "imap":
        client = imaplib.IMAP4_SSL(host, int(port), ssl_context=context) if tls == "tls" else imaplib.IMAP4(host, int(port))
        if tls == "starttls":
            client.starttls(context)
        client.login(user, password)
    elif protocol == "pop3":
        client = poplib.POP3_SSL(host, int(port), context=context) if tls == "tls" else poplib.POP3(host, int(port))
        if tls == "starttls":
            client.stls(context)
        client.user(user)
        client.pass_(password)
    else:
        client = smtplib.SMTP_SSL(host, int(port), context=context) if tls == "tls" else smtplib.SMTP(host, int(port))
        if tls == "starttls":
            client.starttls(context=context)
        client.login(user, password)
    print("OK")
except smtplib.SMTPResponseException as error:
    print("REFUSED", error.smtp_code, error.smtp_error.decode())
except (imaplib.IMAP4.error, poplib.error_proto) as error:
    print("REFUSED", error)
except (OSError, EOFError, smtplib.SMTPException) as error:
    print("NO ANSWER", error)
