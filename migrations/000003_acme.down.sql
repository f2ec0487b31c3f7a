DROP TABLE acme_leases, acme_items;
