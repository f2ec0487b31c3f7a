DROP SEQUENCE usage_hours;
DROP TABLE usage_minutes;
