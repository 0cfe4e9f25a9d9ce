-- Sessions that watchers have open, written behind. They go with the row of the process that the watcher is connected to.
CREATE TABLE session (
    node_id BYTEA NOT NULL REFERENCES node (node_id) ON DELETE CASCADE,
    watcher BIGINT NOT NULL,
    number BIGINT NOT NULL,
    mailbox_id BYTEA NOT NULL,
    device_id BYTEA NOT NULL,
    generation BIGINT NOT NULL,
    protocol BIGINT NOT NULL,
    client_ip TEXT NOT NULL,
    open_time BIGINT NOT NULL,
    frontend TEXT NOT NULL,
    PRIMARY KEY (node_id, watcher, number)
);
CREATE INDEX session_of_mailbox ON session (mailbox_id);

-- What a change did to the sessions at a process's watchers. Only where there were any.
CREATE TABLE session_closing (
    revision BIGINT NOT NULL,
    node_id BYTEA NOT NULL,
    closed BIGINT NOT NULL,
    -- The names of the watchers that did not say that they closed theirs, a line each.
    silent TEXT NOT NULL,
    PRIMARY KEY (revision, node_id)
);
