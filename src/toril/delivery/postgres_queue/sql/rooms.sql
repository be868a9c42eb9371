-- How many jobs of a target's group may wait, for envelopes that are accepted at the same moment by any process.

-- Takes room in a group for a job until a time. Returns false where the group has a max_waiting, and no room. The room is
-- used up when the job is added.
--
-- What takes room in one group takes turns. Jobs are added without a turn: adding one replaces its room by itself in one
-- transaction, and one statement counts both.
CREATE OR REPLACE FUNCTION toril_take_room(its_target text, its_name text, its_job text, for_s double precision)
RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    now_s double precision;
    most integer;
BEGIN
    SELECT max_waiting INTO most FROM toril_groups WHERE target = its_target AND name = its_name;
    IF most IS NULL THEN
        RETURN true;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('toril_rooms'), hashtext(its_target || '/' || its_name));
    now_s := extract(epoch FROM clock_timestamp())::double precision;
    DELETE FROM toril_rooms WHERE target = its_target AND name = its_name AND until <= now_s;
    IF (
        SELECT count(*) FROM (
            SELECT FROM toril_jobs
            WHERE target = its_target AND job_group = its_name AND due IS NULL AND token IS NULL AND starts = 0 LIMIT most
        ) AS waiting
    ) + (
        SELECT count(*) FROM toril_rooms WHERE target = its_target AND name = its_name AND job_id <> its_job
    ) >= most THEN
        RETURN false;
    END IF;
    INSERT INTO toril_rooms AS r (target, name, job_id, until) VALUES (its_target, its_name, its_job, now_s + for_s)
    ON CONFLICT (target, name, job_id) DO UPDATE SET until = excluded.until;
    RETURN true;
END $$;
