DROP TABLE alert_deliveries;
DROP TABLE alert_silences;
DROP TABLE alerts;
DROP TABLE alert_rule_channels;
DROP TABLE alert_channels;
DROP TABLE alert_rules;
