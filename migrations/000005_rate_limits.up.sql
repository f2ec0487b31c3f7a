-- Counters of rate limits that replicas share.

-- What is lost in a crash of the server comes back by itself within a window, so
-- nothing of this is in the log that others wait for. Times are nanoseconds of Unix time.
CREATE UNLOGGED TABLE rate_limits (
    key      bytea PRIMARY KEY,             -- digest of limit and subject
    at       bigint NOT NULL DEFAULT 0,     -- when everything is there again; for a sliding window its number
    current  bigint NOT NULL DEFAULT 0,     -- units in the current window, for a sliding one
    previous bigint NOT NULL DEFAULT 0,     -- units in the one before
    ends_at  timestamptz NOT NULL           -- decides nothing any more; changes rarely, so that most updates touch no index
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX rate_limits_by_end ON rate_limits (ends_at);

-- Takes up to wanted units of a key, and none when there are less than the fewest, exactly
-- as ratelimit.Limit does, by the clock of this server. It answers with the units,
-- those that remain, and after how many nanoseconds to try again and to have
-- everything back. allowed is false for a refusal.
CREATE FUNCTION rate_limit_reserve(
    k bytea, sliding boolean, span bigint, quota bigint, burst bigint, fewest bigint, wanted bigint,
    OUT allowed boolean, OUT units bigint, OUT remaining bigint, OUT retry bigint, OUT reset bigint
) LANGUAGE plpgsql AS $$
DECLARE
    r         rate_limits;
    kept      bigint;
    now_at    bigint;
    step      bigint := (span + quota - 1) / quota; -- GCRA: until a unit comes back
    tolerance bigint := step * burst;
    number    bigint;
    into_span bigint;
    kept_for  bigint;
BEGIN
    LOOP
        SELECT * INTO r FROM rate_limits WHERE key = k FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO rate_limits (key, ends_at) VALUES (k, clock_timestamp() + interval '1 minute') ON CONFLICT DO NOTHING;
    END LOOP;
    kept := r.at;
    now_at := extract(epoch FROM clock_timestamp()) * 1000000000;
    allowed := false;
    units := 0;
    retry := 0;

    IF sliding THEN
        kept_for := 2 * span;
        number := now_at / span;
        into_span := now_at % span;
        IF number = r.at + 1 THEN
            r.previous := r.current;
            r.current := 0;
            r.at := number;
        ELSIF number > r.at THEN
            r.previous := 0;
            r.current := 0;
            r.at := number;
        ELSIF number < r.at THEN -- the clock was set back: what was used stays used, for two windows and a minute at most
            IF (r.at - 1 - number) * span <= 60000000000 THEN
                into_span := 0;
            ELSE
                r.current := least(quota, r.current + r.previous);
                r.previous := 0;
                r.at := number;
            END IF;
        END IF;
        remaining := greatest(0, quota - r.current - div(r.previous::numeric * (span - into_span), span)::bigint);
        reset := 2 * span - into_span;
        IF fewest <= remaining THEN
            allowed := true;
            units := least(greatest(fewest, wanted), remaining);
            remaining := remaining - units;
            r.current := r.current + units;
        ELSIF fewest > quota THEN
            NULL; -- never
        ELSIF r.current <= quota - fewest AND r.previous > 0 THEN
            retry := greatest(1, span - into_span - div(span::numeric * (quota - fewest - r.current), r.previous)::bigint);
        ELSE
            retry := span - into_span;
            IF r.current > quota - fewest THEN
                retry := retry + span - div(span::numeric * (quota - fewest), r.current)::bigint;
            END IF;
            retry := greatest(1, retry);
        END IF;
    ELSE
        kept_for := greatest(span, tolerance);
        IF r.at - now_at > 2 * tolerance + span + 60000000000 THEN -- the clock was set back
            r.at := now_at + tolerance;
        END IF;
        r.at := greatest(r.at, now_at);
        remaining := greatest(0, (now_at + tolerance - r.at) / step);
        IF fewest > (CASE burst WHEN 1 THEN quota ELSE burst END) THEN
            NULL; -- never
        ELSIF least(fewest, burst) <= remaining THEN
            allowed := true;
            units := greatest(fewest, least(wanted, remaining));
            remaining := greatest(0, remaining - units);
            r.at := r.at + units * step;
        ELSE
            retry := greatest(1, r.at + least(fewest, burst) * step - now_at - tolerance);
        END IF;
        reset := r.at - now_at;
    END IF;

    IF units > 0 OR r.at < kept THEN
        kept_for := greatest(kept_for, 60000000000);
        UPDATE rate_limits SET at = r.at, current = r.current, previous = r.previous,
            ends_at = to_timestamp((now_at / kept_for + 2) * (kept_for / 1000000000.0) + 1)
        WHERE key = k;
    END IF;
END
$$;
