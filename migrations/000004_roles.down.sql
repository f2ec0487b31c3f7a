-- Rights are cut, never kept under a name that nobody knows any more.
UPDATE users SET role = 'user' WHERE role IN ('viewer', 'operator');
ALTER TABLE users DROP CONSTRAINT users_role_known;
ALTER TABLE users ADD CONSTRAINT users_role_known CHECK (role IN ('user', 'admin'));
