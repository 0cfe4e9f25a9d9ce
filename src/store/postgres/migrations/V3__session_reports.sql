-- Sessions that are still connected, and refused at their next command. `silent` now has a line for each host: how many sessions, and its name.
ALTER TABLE session_closing ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
DELETE FROM session_closing;
