-- What `toril.delivery.rules.enqueue` checks of an envelope, with the same limits.

-- Ends the caller's transaction: the code of the error is its message, what is wrong its detail, the field its column.
CREATE OR REPLACE FUNCTION toril._refuse(code text, field text, detail text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION USING MESSAGE = code, DETAIL = detail, COLUMN = field;
END $$;

CREATE OR REPLACE FUNCTION toril._check_path(path text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    decoded text;
BEGIN
    IF length(path) > 16384 THEN
        PERFORM toril._refuse('invalid_envelope', 'path', 'path has at most 16384 bytes');
    ELSIF path !~ '^[/?][\x21\x22\x24-\x7e]*$' THEN
        PERFORM toril._refuse('invalid_envelope', 'path',
            'path must begin with / or ? and hold no spaces, fragments, control or non-ASCII characters');
    END IF;
    -- Dot segments in every spelling that a server may read as one (toril.core.http.paths).
    decoded := split_part(path, '?', 1);
    decoded := regexp_replace(decoded, '%2e', '.', 'gi');
    decoded := regexp_replace(decoded, '\\|%2f|%5c', '/', 'gi');
    decoded := regexp_replace(decoded, '%(3b|23|3f)', ';', 'gi');
    decoded := regexp_replace(decoded, '%([01][0-9a-f]|20|7f)', ' ', 'gi');
    IF decoded ~ '(^|/) *\.\.? *(;[^/]*)?(/|$)' THEN
        PERFORM toril._refuse('invalid_envelope', 'path', 'path must not hold dot segments');
    END IF;
END $$;

-- Returns the headers as they are sent, each name beside its value.
CREATE OR REPLACE FUNCTION toril._checked_headers(headers jsonb, OUT names text[], OUT given text[])
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    header record;
    element jsonb;
    size integer := 0;
BEGIN
    names := '{}';
    given := '{}';
    IF headers IS NULL THEN
        RETURN;
    ELSIF jsonb_typeof(headers) <> 'object' THEN
        PERFORM toril._refuse('invalid_envelope', 'headers', 'headers must be an object of names to values');
    END IF;
    FOR header IN SELECT * FROM jsonb_each(headers) LOOP
        IF header.key !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$' THEN
            PERFORM toril._refuse('invalid_envelope', 'headers', quote_literal(left(header.key, 200)) || ' is not the name of a header');
        ELSIF lower(header.key COLLATE "C") ~ '^(toril-|webhook-)' OR lower(header.key COLLATE "C") IN (
            'connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'trailer',
            'transfer-encoding', 'upgrade', 'host', 'content-length', 'idempotency-key', 'expect'
        ) THEN
            PERFORM toril._refuse('invalid_envelope', 'headers', 'The header ' || header.key || ' may not be set');
        END IF;
        FOR element IN SELECT * FROM jsonb_array_elements(
            CASE jsonb_typeof(header.value) WHEN 'array' THEN header.value ELSE jsonb_build_array(header.value) END
        ) LOOP
            IF jsonb_typeof(element) <> 'string' THEN
                PERFORM toril._refuse('invalid_envelope', 'headers',
                    'The value of the header ' || header.key || ' must be a string or a list of strings');
            ELSIF (element #>> '{}') !~ '^[\x09\x20-\x7e\u0080-\u00ff]*$' THEN
                PERFORM toril._refuse('invalid_envelope', 'headers',
                    'The header ' || header.key || ' holds characters that cannot be sent');
            END IF;
            names := names || header.key;
            given := given || (element #>> '{}');
            size := size + length(header.key) + length(element #>> '{}') + 4;
        END LOOP;
    END LOOP;
    IF size > 65536 THEN
        PERFORM toril._refuse('invalid_envelope', 'headers', 'headers have at most 65536 bytes in sum');
    END IF;
END $$;

CREATE OR REPLACE FUNCTION toril._check_labels(labels jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    label record;
    total integer := 0;
BEGIN
    IF jsonb_typeof(labels) <> 'object' THEN
        PERFORM toril._refuse('invalid_envelope', 'labels', 'labels must be an object of names to texts');
    END IF;
    FOR label IN SELECT member.key, member.value #>> '{}' AS value, jsonb_typeof(member.value) AS kind
        FROM jsonb_each(labels) AS member
    LOOP
        total := total + 1;
        IF label.kind <> 'string' THEN
            PERFORM toril._refuse('invalid_envelope', 'labels', 'The value of a label must be a string');
        ELSIF length(label.key) NOT BETWEEN 1 AND 100 OR length(label.value) > 500 THEN
            PERFORM toril._refuse('invalid_envelope', 'labels',
                'A label''s name has 1 to 100 characters, its value at most 500');
        ELSIF label.key || label.value ~ '[\x01-\x1f\u007f-\u009f]' THEN
            PERFORM toril._refuse('invalid_envelope', 'labels', 'A label holds a character that is none');
        END IF;
    END LOOP;
    IF total > 32 THEN
        PERFORM toril._refuse('invalid_envelope', 'labels', 'There may be at most 32 labels');
    END IF;
END $$;

-- Returns a group with its id as text and its defaults left out. An id is refused as by `check_group_id`.
CREATE OR REPLACE FUNCTION toril._checked_group(given jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    id jsonb := given -> 'id';
    rank numeric := 0;
BEGIN
    IF given IS NULL THEN
        RETURN NULL;
    ELSIF jsonb_typeof(given) <> 'object' THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group must be an object');
    ELSIF given - 'id' - 'priority' <> '{}' THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group has id and priority, and nothing else');
    ELSIF coalesce(jsonb_typeof(id), '') NOT IN ('string', 'number') THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group.id must be a text or a whole number');
    ELSIF given ? 'priority' AND jsonb_typeof(given -> 'priority') <> 'number' THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group.priority must be a whole number');
    END IF;
    rank := coalesce((given ->> 'priority')::numeric, 0);
    IF jsonb_typeof(id) = 'number' AND scale((id #>> '{}')::numeric) > 0 THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group.id must be a text or a whole number');
    ELSIF jsonb_typeof(id) = 'number' AND abs((id #>> '{}')::numeric) > 9007199254740991 THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group.id beyond 2^53 - 1 must be a text');
    ELSIF length(id #>> '{}') NOT BETWEEN 1 AND 256 THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group.id must have from 1 to 256 characters');
    ELSIF id #>> '{}' IN ('.', '..') THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group.id must not be . or .., which no path can hold');
    ELSIF id #>> '{}' ~ '[\x01-\x1f\x7f-\x9f]' THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group.id must not contain control characters');
    ELSIF rank NOT BETWEEN 0 AND 2097152 OR scale(rank) > 0 THEN
        PERFORM toril._refuse('invalid_envelope', 'group', 'group.priority must be a whole number from 0 to 2097152');
    END IF;
    RETURN jsonb_build_object('id', id #>> '{}')
        || CASE rank WHEN 0 THEN '{}' ELSE jsonb_build_object('priority', rank) END;
END $$;

-- Returns a time as seconds since the epoch.
CREATE OR REPLACE FUNCTION toril._checked_time(field text, given timestamptz) RETURNS double precision
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF given IS NULL THEN
        RETURN NULL;
    ELSIF NOT isfinite(given) OR given < timestamptz '0001-01-01 00:00:00+00' THEN
        PERFORM toril._refuse('invalid_envelope', field, field || ' must be a time of the years 1 to 9999');
    ELSIF given > now() + interval '87672 hours' THEN  -- ten years of the calendar, with three leap days
        PERFORM toril._refuse('invalid_envelope', field, field || ' must be within ten years');
    END IF;
    RETURN extract(epoch FROM given)::double precision;
END $$;
