-- The roles of those who run the gateway.

ALTER TABLE users DROP CONSTRAINT users_role_known;
ALTER TABLE users ADD CONSTRAINT users_role_known CHECK (role IN ('user', 'viewer', 'operator', 'admin'));
