-- Certificates that are got from an ACME authority (RFC 8555), for all replicas.

CREATE TABLE acme_items (
    directory  text NOT NULL, -- URL of the authority: what another one has issued is not of use
    name       text NOT NULL, -- a host, one with a suffix, or the account
    sealed     bytea NOT NULL, -- private key, and the certificate if there is one, sealed under the master key
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (directory, name)
);

-- Who orders a certificate at the moment. Two orders for one host would answer
-- each other's challenges.
CREATE TABLE acme_leases (
    directory text NOT NULL,
    name      text NOT NULL,
    holder    text NOT NULL, -- id of the replica
    until     timestamptz NOT NULL,
    PRIMARY KEY (directory, name)
);
