-- `toril.enqueue`: the delivery is a row of the ledger as soon as the caller's transaction commits.

CREATE OR REPLACE FUNCTION toril.enqueue(
    target text,
    path text DEFAULT NULL,
    body jsonb DEFAULT NULL,
    body_bytes bytea DEFAULT NULL,
    method text DEFAULT 'POST',
    headers jsonb DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    delay interval DEFAULT NULL,
    not_before timestamptz DEFAULT NULL,
    deadline timestamptz DEFAULT NULL,
    priority integer DEFAULT NULL,
    labels jsonb DEFAULT NULL,
    "group" jsonb DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
DECLARE
    known toril.targets;
    names text[];
    given text[];
    types text[];
    media text;
    content bytea;
    kind text := 'none';        -- of the content: none, json or bytes; text is JSON that is compared as text
    compared bytea := '';
    verb text := coalesce(enqueue.method, 'POST');
    rank integer := coalesce(enqueue.priority, 0);
    marks jsonb := coalesce(enqueue.labels, '{}');
    grouped jsonb;
    delay_s double precision;
    not_before_s double precision;
    deadline_s double precision;
    due_s double precision;
    now_s double precision := extract(epoch FROM now())::double precision;
    raw bytea := uuid_send(gen_random_uuid());
    id text;
    envelope bytea;
    digest bytea := '';
    standing record;
BEGIN
    -- What is wrong with the envelope, whatever the target; in the order in which `POST /enqueue` finds it.
    IF length(enqueue.target) > 64 THEN
        PERFORM toril._refuse('invalid_envelope', 'target', 'A target''s name has at most 64 characters');
    ELSIF length(verb) > 64 THEN
        PERFORM toril._refuse('invalid_envelope', 'method', 'method has at most 64 characters');
    ELSIF enqueue.idempotency_key !~ '^[\x21-\x7e]{1,255}$' THEN
        PERFORM toril._refuse('invalid_envelope', 'idempotency_key',
            'An idempotency key is 1 to 255 visible ASCII characters');
    ELSIF coalesce(enqueue.target, '') = '' THEN
        PERFORM toril._refuse('invalid_envelope', 'target', 'target must name a target');
    ELSIF verb !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$' OR upper(verb COLLATE "C") = 'CONNECT' THEN
        PERFORM toril._refuse('invalid_envelope', 'method',
            'method ' || quote_literal(verb) || ' is not an HTTP method that can be sent');
    END IF;
    SELECT checked.names, checked.given INTO names, given FROM toril._checked_headers(enqueue.headers) AS checked;

    -- The content, as it is sent.
    SELECT array_agg(pair.value) INTO types
        FROM unnest(names, given) AS pair (name, value) WHERE lower(pair.name COLLATE "C") = 'content-type';
    IF cardinality(types) > 1 THEN
        PERFORM toril._refuse('invalid_envelope', 'headers', 'There is more than one content-type');
    ELSIF enqueue.body IS NOT NULL AND enqueue.body_bytes IS NOT NULL THEN
        PERFORM toril._refuse('invalid_envelope', 'body_bytes', 'body and body_bytes exclude each other');
    ELSIF jsonb_path_exists(enqueue.body, 'strict $.**{900}') THEN
        PERFORM toril._refuse('invalid_envelope', 'body', 'body is nested too deeply');
    END IF;
    IF enqueue.body_bytes IS NOT NULL THEN
        content := enqueue.body_bytes;
        kind := 'bytes';
    ELSIF enqueue.body IS NOT NULL THEN
        media := lower(btrim(split_part(types[1], ';', 1), E' \t') COLLATE "C");
        IF jsonb_typeof(enqueue.body) = 'string' AND media NOT IN ('application/json', 'text/json')
            AND media NOT LIKE '%+json'
        THEN
            content := convert_to(enqueue.body #>> '{}', 'UTF8');
            kind := 'bytes';
        ELSE
            content := convert_to(enqueue.body::text, 'UTF8');
            kind := 'json';
            IF types IS NULL THEN
                names := names || 'content-type'::text;
                given := given || 'application/json'::text;
            END IF;
        END IF;
    END IF;

    IF enqueue.delay IS NOT NULL AND enqueue.not_before IS NOT NULL THEN
        PERFORM toril._refuse('invalid_envelope', 'not_before', 'delay and not_before exclude each other');
    ELSIF rank NOT BETWEEN 0 AND 2097152 THEN
        PERFORM toril._refuse('invalid_envelope', 'priority', 'priority must be a whole number from 0 to 2097152');
    END IF;
    IF enqueue.path IS NOT NULL THEN
        PERFORM toril._check_path(enqueue.path);
    END IF;
    IF enqueue.delay IS NOT NULL THEN
        IF enqueue.delay < interval '0' OR enqueue.delay > interval '87600 hours' THEN
            PERFORM toril._refuse('invalid_envelope', 'delay', 'delay must not be negative, and at most ten years');
        END IF;
        delay_s := extract(epoch FROM enqueue.delay)::double precision;
        due_s := extract(epoch FROM now() + enqueue.delay)::double precision;
    END IF;
    not_before_s := toril._checked_time('not_before', enqueue.not_before);
    deadline_s := toril._checked_time('deadline', enqueue.deadline);
    PERFORM toril._check_labels(marks);
    grouped := toril._checked_group(enqueue."group");

    -- What the target allows.
    SELECT * INTO known FROM toril.targets WHERE name = enqueue.target;
    IF NOT FOUND THEN
        PERFORM toril._refuse('unknown_target', 'target', 'No target has this name: ' || quote_literal(enqueue.target));
    ELSIF octet_length(content) > known.max_body THEN
        PERFORM toril._refuse('envelope_too_large', 'body', 'The body must be at most ' || known.max_body || ' bytes');
    ELSIF known.auth <> 'passthrough' AND EXISTS (
        SELECT FROM unnest(names) AS name WHERE lower(name COLLATE "C") IN ('authorization', lower(known.own_header COLLATE "C"))
    ) THEN
        PERFORM toril._refuse('invalid_envelope', 'headers',
            'The target''s own auth sets its header, and authorization is sent on by targets with '
            'auth: {scheme: passthrough} only; this one''s scheme is ' || known.auth);
    END IF;

    envelope := '\x84'::bytea
        || toril._packed_text('method') || toril._packed_text(verb)
        || toril._packed_text('path') || toril._packed_text(enqueue.path)
        || toril._packed_text('headers') || toril._head(cardinality(names), 144, 'dc', 'dd') || coalesce((
            SELECT string_agg('\x92'::bytea || toril._packed_text(pair.name) || toril._packed_text(pair.value), ''
                ORDER BY pair.ordinality)
            FROM unnest(names, given) WITH ORDINALITY AS pair (name, value, ordinality)
        ), '')
        || toril._packed_text('content') || CASE WHEN content IS NULL THEN '\xc0'::bytea ELSE
            '\x82'::bytea || toril._packed_text('type') || toril._packed_text('inline')
            || toril._packed_text('data') || toril._packed_bytes(content) END;
    IF enqueue.idempotency_key IS NOT NULL THEN
        IF kind = 'json' THEN
            BEGIN
                compared := convert_to(toril._canonical(enqueue.body), 'UTF8');
            EXCEPTION WHEN numeric_value_out_of_range THEN  -- a number that no double holds
                kind := 'text';
                compared := content;
            END;
        ELSIF kind = 'bytes' THEN
            compared := content;
        END IF;
        -- Without a group the fingerprint is what it was before there were groups.
        digest := sha256(CASE WHEN grouped IS NULL THEN '\x9b'::bytea ELSE '\x9c'::bytea END
            || toril._packed_text(enqueue.target) || toril._packed_text(verb) || toril._packed_text(enqueue.path)
            || toril._packed_by_name(names, given) || toril._packed_text(kind) || toril._packed_bytes(compared)
            || toril._packed_seconds(nullif(delay_s, 0)) || toril._packed_seconds(not_before_s)
            || toril._packed_seconds(deadline_s) || toril._packed_number(rank) || toril._packed_labels(marks)
            || CASE WHEN grouped IS NULL THEN '' ELSE '\x92'::bytea || toril._packed_text(grouped ->> 'id')
                || toril._packed_number(coalesce((grouped ->> 'priority')::integer, 0)) END);
    END IF;

    -- A job id that sorts by its time (RFC 9562, UUID version 7).
    raw := substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        || substring(raw FROM 7);
    raw := set_byte(raw, 6, get_byte(raw, 6) & 15 | 112);
    id := encode(raw, 'hex')::uuid::text;
    due_s := coalesce(due_s, not_before_s);
    LOOP
        -- Waits for a transaction that has the same key and has not ended yet.
        INSERT INTO @ledger@.toril_deliveries (
            job_id, target, status, seq, created_at, updated_at, max_attempts, next_attempt_at, deadline, priority,
            idempotency_key, labels, attempts_made, attempts_begun, token, fingerprint, envelope,
            job_group
        ) VALUES (
            id, enqueue.target, 'queued', 1, now_s, now_s, known.max_attempts, CASE WHEN due_s > now_s THEN due_s END,
            deadline_s, rank, enqueue.idempotency_key, toril._canonical(marks), 0, 0, '', digest, envelope,
            toril._canonical(grouped)
        ) ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
        SELECT delivery.job_id, delivery.fingerprint INTO standing FROM @ledger@.toril_deliveries AS delivery
            WHERE delivery.target = enqueue.target AND delivery.idempotency_key = enqueue.idempotency_key;
        IF FOUND AND standing.fingerprint <> digest THEN
            PERFORM toril._refuse('idempotency_mismatch', 'idempotency_key',
                'Another envelope was accepted under this idempotency key, as ' || standing.job_id);
        ELSIF FOUND THEN
            RETURN standing.job_id;
        END IF;
        -- That delivery was removed, as its retention is over, between the two statements.
    END LOOP;
    INSERT INTO @ledger@.toril_transitions (job_id, seq, status, at, actor)
        VALUES (id, 1, 'queued', now_s, 'sql:' || session_user);
    INSERT INTO @ledger@.toril_labels (name, value, job_id)
        SELECT label.key, label.value, id FROM jsonb_each_text(marks) AS label;
    INSERT INTO toril.unqueued (target, job_id) VALUES (enqueue.target, id);
    RETURN id;
END $$;
