-- Events of mail services and organizations. The mailbox's id is empty for events that concern none. Events from before
-- have no mail service and no organization: they are listed by their mailbox.
ALTER TABLE event ADD COLUMN mail_service_id TEXT COLLATE "C";
ALTER TABLE event ADD COLUMN organization_id TEXT COLLATE "C";
-- The person whose role, membership or right was changed.
ALTER TABLE event ADD COLUMN user_id TEXT COLLATE "C";
CREATE INDEX event_of_mail_service ON event (mail_service_id, time, event_id) WHERE mail_service_id IS NOT NULL;
CREATE INDEX event_of_organization ON event (organization_id, time, event_id) WHERE organization_id IS NOT NULL;

-- For housekeeping: a mailbox's remembered passwords in the order in which they ended.
CREATE INDEX device_remembered_of_mailbox ON device (mailbox_id, end_time) WHERE state = 1;
