-- What AwaitRevocation has to know of a change: how many passwords it disconnected, replaced or barred, and who may
-- ask. All NULL for changes that are answered to nobody, and for those that an older version makes.
ALTER TABLE change_log ADD COLUMN ended_devices BIGINT;
-- 1: DeviceCredentials, 2: Directory.
ALTER TABLE change_log ADD COLUMN api BIGINT;
ALTER TABLE change_log ADD COLUMN organization_id TEXT;
-- NULL: an actor must administer the organization.
ALTER TABLE change_log ADD COLUMN mail_service_id TEXT;
