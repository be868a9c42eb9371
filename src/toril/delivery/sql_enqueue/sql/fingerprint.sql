-- The fingerprint of an envelope, the same as `toril.delivery.rules.idempotency.fingerprint` has of an equal one.

-- A number as msgspec writes it: of the shortest digits that are this double, without an exponent from 1e-5 to 1e16.
CREATE OR REPLACE FUNCTION toril._canonical_number(value numeric) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET extra_float_digits = 1 AS $$
DECLARE
    shown text;
    mantissa text;
    digits text;
    point integer;   -- the value is 0.DIGITS times ten to this power
    sign text := '';
BEGIN
    IF scale(value) = 0 THEN
        RETURN value::text;
    END IF;
    shown := value::double precision::text;
    IF shown LIKE '-%' THEN
        sign := '-';
        shown := substring(shown FROM 2);
    END IF;
    mantissa := split_part(shown, 'e', 1);
    point := length(split_part(mantissa, '.', 1)) + coalesce(nullif(split_part(shown, 'e', 2), '')::integer, 0);
    digits := replace(mantissa, '.', '');
    point := point - (length(digits) - length(ltrim(digits, '0')));
    digits := trim(BOTH '0' FROM digits);
    IF digits = '' THEN
        RETURN sign || '0.0';
    ELSIF point BETWEEN length(digits) AND 16 THEN
        RETURN sign || digits || repeat('0', point - length(digits)) || '.0';
    ELSIF point BETWEEN 1 AND 16 THEN
        RETURN sign || left(digits, point) || '.' || substring(digits FROM point + 1);
    ELSIF point BETWEEN -4 AND 0 THEN
        RETURN sign || '0.' || repeat('0', -point) || digits;
    END IF;
    RETURN sign || left(digits, 1) || CASE WHEN length(digits) > 1 THEN '.' || substring(digits FROM 2) ELSE '' END
        || 'e' || point - 1;
END $$;

-- A JSON value without white space, with the keys of objects in the order of their bytes.
CREATE OR REPLACE FUNCTION toril._canonical(value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    CASE jsonb_typeof(value)
    WHEN 'object' THEN
        RETURN '{' || coalesce((
            SELECT string_agg(to_json(member.key)::text || ':' || CASE
                WHEN jsonb_typeof(member.value) IN ('object', 'array', 'number') THEN toril._canonical(member.value)
                ELSE member.value::text
            END, ',' ORDER BY member.key COLLATE "C")
            FROM jsonb_each(value) AS member
        ), '') || '}';
    WHEN 'array' THEN
        RETURN '[' || coalesce((
            SELECT string_agg(CASE
                WHEN jsonb_typeof(element.value) IN ('object', 'array', 'number') THEN toril._canonical(element.value)
                ELSE element.value::text
            END, ',' ORDER BY element.ordinality)
            FROM jsonb_array_elements(value) WITH ORDINALITY AS element
        ), '') || ']';
    WHEN 'number' THEN
        RETURN toril._canonical_number((value #>> '{}')::numeric);
    ELSE
        RETURN value::text;
    END CASE;
END $$;

-- Headers by their names in lower case, each with its values in order.
CREATE OR REPLACE FUNCTION toril._packed_by_name(names text[], given text[]) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT toril._head(count(*)::integer, 128, 'de', 'df') || coalesce(string_agg(header.packed, '' ORDER BY header.name), '')
    FROM (
        SELECT lower(pair.name COLLATE "C") AS name,
            toril._packed_text(lower(min(pair.name COLLATE "C"))) || toril._head(count(*)::integer, 144, 'dc', 'dd')
                || string_agg(toril._packed_text(pair.value), '' ORDER BY pair.ordinality) AS packed
        FROM unnest(names, given) WITH ORDINALITY AS pair (name, value, ordinality)
        GROUP BY lower(pair.name COLLATE "C")
    ) AS header
$$;

CREATE OR REPLACE FUNCTION toril._packed_labels(labels jsonb) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT toril._head(count(*)::integer, 128, 'de', 'df')
        || coalesce(string_agg(toril._packed_text(label.key) || toril._packed_text(label.value), ''
            ORDER BY label.key COLLATE "C"), '')
    FROM jsonb_each_text(labels) AS label
$$;
