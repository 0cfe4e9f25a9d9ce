-- Types that both stores know: ids BLOB, times BIGINT (microseconds since 1970), numbers BIGINT, switches BOOLEAN, the rest TEXT.

CREATE TABLE organization (
    organization_id TEXT PRIMARY KEY,
    display_name TEXT NOT NULL,
    create_time BIGINT NOT NULL
);

CREATE TABLE member (
    organization_id TEXT NOT NULL REFERENCES organization (organization_id) ON DELETE CASCADE,
    user_id TEXT NOT NULL,
    role BIGINT NOT NULL,
    suspended BOOLEAN NOT NULL,
    PRIMARY KEY (organization_id, user_id)
);

CREATE TABLE mail_service (
    mail_service_id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (organization_id),
    display_name TEXT NOT NULL,
    generic_login BOOLEAN NOT NULL,
    create_time BIGINT NOT NULL
);
CREATE INDEX mail_service_of_organization ON mail_service (organization_id, mail_service_id);

-- The right to manage a mail service.
CREATE TABLE mail_right (
    mail_service_id TEXT NOT NULL REFERENCES mail_service (mail_service_id) ON DELETE CASCADE,
    user_id TEXT NOT NULL,
    PRIMARY KEY (mail_service_id, user_id)
);

CREATE TABLE mailbox (
    mailbox_id BLOB PRIMARY KEY,
    address TEXT NOT NULL UNIQUE,
    mail_service_id TEXT NOT NULL REFERENCES mail_service (mail_service_id),
    suspended BOOLEAN NOT NULL,
    generic_login BOOLEAN NOT NULL,
    -- Counts up with each change to its list of devices: the list's etag.
    device_version BIGINT NOT NULL,
    create_time BIGINT NOT NULL
);
CREATE INDEX mailbox_of_mail_service ON mailbox (mail_service_id, address);

-- One row for each password that a device has or had: the last generation is the device.
CREATE TABLE device (
    device_id BLOB NOT NULL,
    generation BIGINT NOT NULL,
    mailbox_id BLOB NOT NULL,
    name TEXT NOT NULL,
    kind BIGINT NOT NULL,
    user_id TEXT,
    protocols BIGINT NOT NULL,
    networks TEXT NOT NULL,
    expire_time BIGINT,
    create_time BIGINT NOT NULL,
    -- NULL: not known yet; 2 bytes: salt and index; 16 bytes: proof.
    tag BLOB,
    key_id BIGINT NOT NULL,
    hash TEXT,
    -- 0: active; 1: ended, its secrets remembered; 2: ended, its secrets forgotten.
    state BIGINT NOT NULL,
    end_reason BIGINT,
    end_time BIGINT,
    end_revision BIGINT,
    PRIMARY KEY (device_id, generation)
);
CREATE INDEX device_of_mailbox ON device (mailbox_id, state);
CREATE INDEX device_of_user ON device (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX device_remembered ON device (end_time) WHERE state = 1;

-- The last login of a device, written behind: apart from the device, which it would rewrite each time.
CREATE TABLE device_usage (
    device_id BLOB PRIMARY KEY,
    time BIGINT NOT NULL,
    client_ip TEXT NOT NULL,
    protocol BIGINT NOT NULL
);

-- Logins by hour. An empty device_id: of no device.
CREATE TABLE login_history (
    mailbox_id BLOB NOT NULL,
    device_id BLOB NOT NULL,
    reason BIGINT NOT NULL,
    protocol BIGINT NOT NULL,
    client_ip TEXT NOT NULL,
    hour BIGINT NOT NULL,
    event_id BLOB NOT NULL,
    last_client_ip TEXT NOT NULL,
    frontend TEXT NOT NULL,
    count BIGINT NOT NULL,
    first_time BIGINT NOT NULL,
    last_time BIGINT NOT NULL,
    PRIMARY KEY (mailbox_id, device_id, reason, protocol, client_ip, hour)
);
CREATE INDEX login_history_by_time ON login_history (mailbox_id, first_time);
CREATE INDEX login_history_by_hour ON login_history (hour);

-- The audit trail. Outlives the mailbox.
CREATE TABLE event (
    event_id BLOB NOT NULL,
    mailbox_id BLOB NOT NULL,
    time BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    device_id BLOB,
    device_name TEXT NOT NULL,
    actor TEXT NOT NULL,
    caller TEXT NOT NULL,
    peer TEXT NOT NULL,
    revision BIGINT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (mailbox_id, time, event_id)
);

-- One row: the last revision given, and up to which the log is trimmed.
CREATE TABLE change_head (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL,
    trimmed BIGINT NOT NULL
);
INSERT INTO change_head (id, revision, trimmed) VALUES (1, 0, 0);

CREATE TABLE change_log (
    revision BIGINT PRIMARY KEY,
    nonce BIGINT NOT NULL,
    time BIGINT NOT NULL,
    -- All mailboxes of this mail service (8 bytes), or NULL.
    service BLOB,
    -- 16 bytes a mailbox.
    mailboxes BLOB NOT NULL,
    -- 21 bytes a password: device, generation, and why it may not log in any more.
    ended BLOB NOT NULL
);

CREATE TABLE request (
    caller TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    device_id BLOB,
    revision BIGINT NOT NULL,
    count BIGINT NOT NULL,
    time BIGINT NOT NULL,
    PRIMARY KEY (caller, request_id)
);
CREATE INDEX request_by_time ON request (time);

-- The processes that cache.
CREATE TABLE node (
    node_id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    lease_micros BIGINT NOT NULL,
    applied BIGINT NOT NULL,
    renewals BIGINT NOT NULL
);

-- What tells whether a pepper file is the one that this database was made with.
CREATE TABLE pepper_key (
    key_id BIGINT PRIMARY KEY,
    check_value BLOB NOT NULL
);
