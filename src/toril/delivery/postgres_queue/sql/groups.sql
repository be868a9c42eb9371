-- The groups of a target's queue: who starts next. `toril.bullmq.rules.groups` has the same rules in Python, and the
-- tests compare both.
--
-- Every function is called with the target's row of toril_queues locked, so that there is one change at a time, and
-- looks at rows of toril_jobs with SKIP LOCKED. So no caller waits for a job while it has the lock.
--
-- Sessions keep the plans of statements, also those that were made when the tables were empty. So no plan may scan a
-- table, and one group is always read by its name alone: with another condition the plan could use the index of all
-- groups that fulfil it.

-- Gives a group its turn among those of its member, and the member its place among the others. A member that comes back
-- begins with the tag with which it left, if that is later.
CREATE OR REPLACE FUNCTION toril_enter_group(its_target text, its_name text) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    its_turn bigint;
    time_now double precision;
BEGIN
    IF (SELECT start_at FROM toril_groups WHERE target = its_target AND name = its_name) = 0 THEN
        RETURN;
    END IF;
    UPDATE toril_queues SET turn = turn + 1 WHERE target = its_target RETURNING turn, virtual_time INTO its_turn, time_now;
    INSERT INTO toril_groups (target, name, member, turn, start_at, waits)
    VALUES (its_target, its_name, split_part(its_name, '/', 1), its_turn, 0, true)
    ON CONFLICT (target, name) DO UPDATE SET turn = excluded.turn, start_at = 0, waits = true;
    INSERT INTO toril_members AS one (target, name, tag, ready)
    VALUES (its_target, split_part(its_name, '/', 1), time_now, true)
    ON CONFLICT (target, name) DO UPDATE SET tag = greatest(one.tag, excluded.tag), ready = true WHERE NOT one.ready;
END $$;

-- Takes a group out of the turns, until a time (infinity: until a slot is free) or, with null, until it is entered again.
CREATE OR REPLACE FUNCTION toril_leave_group(
    its_target text, its_name text, time_now double precision, until double precision
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    its_member text := split_part(its_name, '/', 1);
    started_at double precision;
BEGIN
    SELECT start_at INTO started_at FROM toril_groups WHERE target = its_target AND name = its_name;
    IF started_at IS DISTINCT FROM until THEN
        UPDATE toril_groups SET start_at = until WHERE target = its_target AND name = its_name;
    END IF;
    IF started_at IS DISTINCT FROM 0 THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM toril_groups WHERE target = its_target AND member = its_member AND start_at = 0) THEN
        RETURN;
    END IF;
    UPDATE toril_members SET ready = false WHERE target = its_target AND name = its_member AND tag > time_now;
    IF NOT FOUND THEN
        DELETE FROM toril_members WHERE target = its_target AND name = its_member;
    END IF;
END $$;

-- Takes out a group that has no waiting job. Its row stays while it has limits, or until its rate lets it start.
CREATE OR REPLACE FUNCTION toril_forget_group(its_target text, its_name text, time_now double precision, now_s double precision)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM toril_leave_group(its_target, its_name, time_now, NULL);
    DELETE FROM toril_groups WHERE target = its_target AND name = its_name AND NOT limited AND arrival <= now_s;
    IF NOT FOUND THEN
        UPDATE toril_groups SET waits = false WHERE target = its_target AND name = its_name;
    END IF;
END $$;

-- Takes note that a job of a group has freed its slot, or begins to wait. Returns true where others may start for it.
CREATE OR REPLACE FUNCTION toril_group_changed(its_target text, its_name text, is_free boolean, is_waiting boolean)
RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    known record;
    enters boolean;
BEGIN
    SELECT start_at, waits INTO known FROM toril_groups WHERE target = its_target AND name = its_name;
    enters := is_free AND coalesce(known.start_at > 0, false) OR is_waiting AND NOT coalesce(known.waits, false);
    IF enters THEN
        PERFORM toril_enter_group(its_target, its_name);
    END IF;
    RETURN enters;
END $$;

-- Takes note that a job of a group has gone; the group may have none left.
CREATE OR REPLACE FUNCTION toril_group_left(its_target text, its_name text) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM toril_jobs WHERE target = its_target AND job_group = its_name AND due IS NULL AND token IS NULL
    ) THEN
        PERFORM toril_forget_group(
            its_target, its_name, (SELECT virtual_time FROM toril_queues WHERE target = its_target),
            extract(epoch FROM clock_timestamp())::double precision
        );
    END IF;
END $$;

-- Starts the next jobs of a target that has groups, one for each token, and leases them. The limits are those of groups
-- that have none themselves. With `recovers`, leases that have lapsed end first, so their slots are free.
--
-- Returns rows of these kinds: `lease` (token, job, when it was added, how often it was leased), `held` (the group, why
-- it was held back, how many of its jobs wait: 1,000 at most), `next` (when the next job of a group may start), and
-- `more` where there may be more to look at now.
CREATE OR REPLACE FUNCTION toril_start_jobs(
    its_target text, tokens text[], lock_s double precision, recovers boolean,
    default_concurrency integer, default_most integer, default_per double precision
) RETURNS TABLE (
    kind text, its_token text, its_name text, its_added double precision, its_number integer, its_time double precision
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    now_s double precision := extract(epoch FROM clock_timestamp())::double precision;
    default_now text := concat_ws(',', coalesce(default_concurrency, 0), coalesce(default_most, 0), coalesce(default_per, 0));
    state record;
    one record;
    head record;
    one_token text;
    its_member text;
    least_tag double precision;
    time_now double precision;
    plain_now double precision;
    turn_now bigint;
    own double precision;
    is_plain boolean := true;
    is_alone boolean;
    at_once integer;
    most_now integer;
    per_now double precision;
    start_s double precision;
    looks integer := 0;
    ripe integer := 0;
    why text;
BEGIN
    IF recovers THEN
        FOR one IN
            UPDATE toril_jobs AS j SET token = NULL, locked_until = NULL, place = (now_s * 1e6)::bigint
            FROM (
                SELECT job_id FROM toril_jobs
                WHERE target = its_target AND token IS NOT NULL AND locked_until <= now_s AND job_group IS NOT NULL
                FOR UPDATE SKIP LOCKED
            ) AS lapsed WHERE j.job_id = lapsed.job_id RETURNING j.job_group
        LOOP
            PERFORM toril_group_changed(its_target, one.job_group, true, true);
        END LOOP;
    END IF;
    SELECT * INTO state FROM toril_queues WHERE target = its_target;
    IF default_now IS DISTINCT FROM state.group_default THEN
        UPDATE toril_queues SET group_default = default_now WHERE target = its_target;
        UPDATE toril_groups SET start_at = 1 WHERE target = its_target AND start_at > 0;
    END IF;
    FOR one IN
        SELECT name FROM toril_groups WHERE target = its_target AND start_at > 0 AND start_at <= now_s
        ORDER BY start_at, name LIMIT 50
    LOOP
        PERFORM toril_enter_group(its_target, one.name);
        ripe := ripe + 1;
    END LOOP;
    SELECT virtual_time, plain_tag, turn INTO time_now, plain_now, turn_now FROM toril_queues WHERE target = its_target;

    FOREACH one_token IN ARRAY tokens LOOP
        LOOP
            head := NULL;
            SELECT name, tag INTO its_member, least_tag FROM toril_members WHERE target = its_target AND ready
            ORDER BY tag, name LIMIT 1;
            is_alone := least_tag IS NULL AND NOT EXISTS (SELECT FROM toril_groups WHERE target = its_target AND waits);
            IF is_alone THEN
                time_now := 0;
                plain_now := 0;
                DELETE FROM toril_members WHERE target = its_target;
            END IF;
            own := greatest(time_now, plain_now);
            IF is_plain AND (least_tag IS NULL OR own < least_tag) THEN
                SELECT job_id, added INTO head FROM toril_jobs
                WHERE target = its_target AND due IS NULL AND token IS NULL AND job_group IS NULL
                ORDER BY priority, place, job_id LIMIT 1 FOR UPDATE SKIP LOCKED;
                IF FOUND THEN
                    IF NOT is_alone THEN
                        time_now := own;
                        plain_now := own + 1;
                    END IF;
                    EXIT;
                END IF;
                is_plain := false;
                CONTINUE;
            END IF;
            EXIT WHEN least_tag IS NULL;
            looks := looks + 1;
            IF looks > 50 + cardinality(tokens) THEN
                ripe := 50;
                EXIT;
            END IF;
            SELECT * INTO one FROM toril_groups WHERE target = its_target AND member = its_member AND start_at = 0
            ORDER BY turn LIMIT 1;
            IF NOT FOUND THEN
                DELETE FROM toril_members WHERE target = its_target AND name = its_member;
                CONTINUE;
            END IF;

            at_once := coalesce(one.concurrency, default_concurrency);
            most_now := CASE WHEN one.most IS NULL THEN default_most ELSE one.most END;
            per_now := CASE WHEN one.most IS NULL THEN default_per ELSE one.per END;
            start_s := CASE WHEN most_now IS NOT NULL THEN one.arrival - per_now + per_now / most_now END;
            why := CASE
                WHEN at_once IS NOT NULL AND at_once <= (
                    SELECT count(*) FROM (
                        SELECT FROM toril_jobs WHERE target = its_target AND job_group = one.name AND token IS NOT NULL
                        LIMIT at_once
                    ) AS slots
                ) THEN 'concurrency'
                WHEN one.paused THEN 'paused'
                WHEN start_s > now_s THEN 'rate'
            END;
            IF why IS NOT NULL THEN
                PERFORM toril_leave_group(
                    its_target, one.name, time_now,
                    CASE why WHEN 'concurrency' THEN 'infinity'::double precision WHEN 'rate' THEN start_s END
                );
                kind := 'held';
                its_token := why;
                its_name := one.name;
                its_number := (
                    SELECT count(*) FROM (
                        SELECT FROM toril_jobs
                        WHERE target = its_target AND job_group = one.name AND due IS NULL AND token IS NULL LIMIT 1000
                    ) AS jobs
                );
                RETURN NEXT;
                CONTINUE;
            END IF;

            SELECT job_id, added INTO head FROM toril_jobs
            WHERE target = its_target AND job_group = one.name AND due IS NULL AND token IS NULL
            ORDER BY (starts = 0), priority, place, job_id LIMIT 1 FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                IF EXISTS (
                    SELECT FROM toril_jobs
                    WHERE target = its_target AND job_group = one.name AND due IS NULL AND token IS NULL
                ) THEN  -- another transaction is removing them
                    PERFORM toril_leave_group(its_target, one.name, time_now, now_s + 0.1);
                ELSE
                    PERFORM toril_forget_group(its_target, one.name, time_now, now_s);
                END IF;
                CONTINUE;
            END IF;
            time_now := least_tag;
            UPDATE toril_members SET tag = least_tag + 1.0::double precision / coalesce(
                (SELECT weight FROM toril_groups WHERE target = its_target AND name = its_member), 1
            ) WHERE target = its_target AND name = its_member;
            turn_now := turn_now + 1;
            UPDATE toril_groups SET turn = turn_now,
                arrival = CASE WHEN most_now IS NULL THEN arrival ELSE greatest(arrival, now_s) + per_now / most_now END
            WHERE target = its_target AND name = one.name;
            EXIT;
        END LOOP;
        EXIT WHEN head IS NULL;
        UPDATE toril_jobs AS j SET token = one_token, locked_until = now_s + lock_s, starts = j.starts + 1
        WHERE j.job_id = head.job_id RETURNING j.starts, j.job_group INTO its_number, its_name;
        IF its_name IS NOT NULL AND NOT EXISTS (
            SELECT FROM toril_jobs WHERE target = its_target AND job_group = its_name AND due IS NULL AND token IS NULL
        ) THEN
            PERFORM toril_forget_group(its_target, its_name, time_now, now_s);
        END IF;
        kind := 'lease';
        its_token := one_token;
        its_name := head.job_id;
        its_added := head.added;
        RETURN NEXT;
    END LOOP;

    DELETE FROM toril_members WHERE target = its_target AND NOT ready AND tag <= time_now;
    DELETE FROM toril_groups
    WHERE target = its_target AND start_at IS NULL AND NOT waits AND NOT limited AND arrival <= now_s;
    UPDATE toril_queues SET virtual_time = time_now, plain_tag = plain_now, turn = turn_now WHERE target = its_target;
    IF head IS NOT NULL THEN
        RETURN;
    END IF;
    IF is_alone AND NOT EXISTS (
            SELECT FROM toril_groups WHERE target = its_target AND start_at IS NULL AND NOT waits AND NOT limited
        )
        AND NOT EXISTS (SELECT FROM toril_jobs WHERE target = its_target AND due IS NOT NULL)
        AND NOT EXISTS (SELECT FROM toril_jobs WHERE target = its_target AND token IS NOT NULL AND job_group IS NOT NULL)
    THEN
        UPDATE toril_queues SET grouped = false, group_default = NULL, turn = 0 WHERE target = its_target;
        RETURN;
    END IF;
    its_time := (SELECT min(start_at) FROM toril_groups WHERE target = its_target AND start_at > 0);
    IF its_time IS NOT NULL THEN
        its_time := least(its_time, (
            SELECT min(locked_until) FROM toril_jobs
            WHERE target = its_target AND token IS NOT NULL AND job_group IS NOT NULL AND locked_until > now_s
        ));
    END IF;
    IF ripe = 50 OR its_time <= now_s THEN
        kind := 'more';
        RETURN NEXT;
    ELSIF its_time < 'infinity' THEN
        kind := 'next';
        RETURN NEXT;
    END IF;
END $$;
