-- Tells the instances of new rows, at the commit. PostgreSQL commits transactions that notify one after the other, so
-- callers need not while an instance looks many times a second anyway (toril.delivery.sql_enqueue.look_pace).

CREATE OR REPLACE FUNCTION toril._notify() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
BEGIN
    -- Half a second is more than enough between this look at the clock and the end of the commit.
    IF NOT EXISTS (SELECT FROM toril.attention WHERE until > clock_timestamp() + interval '0.5 seconds') THEN
        PERFORM pg_notify('toril_enqueued', '');
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS notify ON toril.unqueued;
CREATE CONSTRAINT TRIGGER notify AFTER INSERT ON toril.unqueued DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION toril._notify();
