-- `toril.job`: a delivery as `GET /jobs/{id}` shows it to a token without the right `payloads:read`.

CREATE OR REPLACE FUNCTION toril._moment(at double precision) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT to_char(to_timestamp(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- The last answer of the target, with headers that came more than once as lists; the values of secret ones are hidden.
CREATE OR REPLACE FUNCTION toril._response(packed bytea, own_header text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    answer jsonb;
BEGIN
    IF packed IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT unpacked.value INTO answer FROM toril._unpacked(packed || ''::bytea, 0) AS unpacked;
    RETURN jsonb_build_object(
        'status', answer -> 'status',
        'body_bytes', coalesce(answer -> 'content' -> 'data', answer -> 'content' -> 'size_bytes'),
        'truncated', answer -> 'truncated',
        'headers', coalesce((
            SELECT jsonb_object_agg(header.name, CASE jsonb_array_length(header.given) WHEN 1 THEN header.given -> 0 ELSE header.given END)
            FROM (
                SELECT (array_agg(pair.value ->> 0 ORDER BY pair.ordinality))[1] AS name,
                    jsonb_agg(CASE WHEN lower((pair.value ->> 0) COLLATE "C") IN (
                        'authorization', 'cookie', 'cookie2', 'proxy-authorization', 'set-cookie', 'set-cookie2',
                        lower(own_header COLLATE "C")
                    ) THEN '"(hidden)"'::jsonb ELSE pair.value -> 1 END ORDER BY pair.ordinality) AS given
                FROM jsonb_array_elements(answer -> 'headers') WITH ORDINALITY AS pair (value, ordinality)
                GROUP BY lower((pair.value ->> 0) COLLATE "C")
            ) AS header
        ), '{}'::jsonb)
    );
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;  -- not as toril writes it
END $$;

CREATE OR REPLACE FUNCTION toril.job(id uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $$
    SELECT jsonb_build_object(
        'job_id', delivery.job_id,
        'target', delivery.target,
        'status', delivery.status,
        'attempts_made', delivery.attempts_made,
        'max_attempts', delivery.max_attempts,
        'created_at', toril._moment(delivery.created_at),
        'updated_at', toril._moment(delivery.updated_at),
        'next_attempt_at', toril._moment(delivery.next_attempt_at),
        'deadline', toril._moment(delivery.deadline),
        'last_error', delivery.last_error,
        'reason', delivery.reason,
        'labels', delivery.labels::jsonb,
        'group', '{"priority": 0}'::jsonb || delivery.job_group::jsonb,
        'response', toril._response(delivery.response, (
            SELECT known.own_header FROM toril.targets AS known WHERE known.name = delivery.target)),
        'transitions', (
            SELECT jsonb_agg(jsonb_build_object(
                'seq', step.seq, 'from', step.source, 'to', step.status, 'at', toril._moment(step.at),
                'reason', step.reason, 'attempt', step.attempt, 'by', step.actor) ORDER BY step.seq)
            FROM @ledger@.toril_transitions AS step WHERE step.job_id = delivery.job_id
        ),
        'attempts', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'number', attempt.number, 'started_at', toril._moment(attempt.started_at),
                'duration_ms', round(attempt.duration * 1000)::bigint, 'outcome', attempt.outcome,
                'status_code', attempt.status_code, 'error', attempt.error, 'retry_after_s', attempt.retry_after)
                ORDER BY attempt.number)
            FROM @ledger@.toril_attempts AS attempt WHERE attempt.job_id = delivery.job_id
        ), '[]'::jsonb)
    )
    FROM @ledger@.toril_deliveries AS delivery WHERE delivery.job_id = job.id::text
$$;
