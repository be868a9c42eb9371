-- MessagePack, as far as the envelopes and answers in the ledger's rows need it (toril.delivery.rules.row_codec).

CREATE OR REPLACE FUNCTION toril._head(size integer, small integer, short text, long text) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN size < 16 THEN set_byte('\x00'::bytea, 0, small + size)
        WHEN size < 65536 THEN decode(short, 'hex') || substring(int4send(size) FROM 3)
        ELSE decode(long, 'hex') || int4send(size)
    END
$$;

CREATE OR REPLACE FUNCTION toril._packed_text(value text) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    encoded bytea := convert_to(value, 'UTF8');
    size integer := octet_length(encoded);
BEGIN
    RETURN CASE
        WHEN value IS NULL THEN '\xc0'::bytea
        WHEN size < 32 THEN set_byte('\x00'::bytea, 0, 160 + size) || encoded
        WHEN size < 256 THEN '\xd9'::bytea || substring(int4send(size) FROM 4) || encoded
        WHEN size < 65536 THEN '\xda'::bytea || substring(int4send(size) FROM 3) || encoded
        ELSE '\xdb'::bytea || int4send(size) || encoded
    END;
END $$;

CREATE OR REPLACE FUNCTION toril._packed_bytes(value bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    size integer := octet_length(value);
BEGIN
    RETURN CASE
        WHEN size < 256 THEN '\xc4'::bytea || substring(int4send(size) FROM 4) || value
        WHEN size < 65536 THEN '\xc5'::bytea || substring(int4send(size) FROM 3) || value
        ELSE '\xc6'::bytea || int4send(size) || value
    END;
END $$;

CREATE OR REPLACE FUNCTION toril._packed_number(value integer) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN value < 128 THEN set_byte('\x00'::bytea, 0, value)
        WHEN value < 256 THEN '\xcc'::bytea || substring(int4send(value) FROM 4)
        WHEN value < 65536 THEN '\xcd'::bytea || substring(int4send(value) FROM 3)
        ELSE '\xce'::bytea || int4send(value)
    END
$$;

CREATE OR REPLACE FUNCTION toril._packed_seconds(value double precision) RETURNS bytea
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN value IS NULL THEN '\xc0'::bytea ELSE '\xcb'::bytea || float8send(value) END
$$;

-- Reads the value that begins at a byte (from 0): in `value` as JSON, bytes as their number; `next` is the byte behind
-- it. `packed` must be in memory (not toasted), or every look at a byte reads all of it.
CREATE OR REPLACE FUNCTION toril._unpacked(packed bytea, at integer, OUT value jsonb, OUT next integer)
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    kind integer := get_byte(packed, at);
    size integer;
    inner_key record;
    inner_value record;
    part bytea;
    -- How many bytes say the size behind each kind of head.
    sized integer := CASE
        WHEN kind IN (196, 217) THEN 1
        WHEN kind IN (197, 218, 220, 222) THEN 2
        WHEN kind IN (198, 219, 221, 223) THEN 4
        ELSE 0
    END;
BEGIN
    size := CASE
        WHEN kind BETWEEN 128 AND 159 THEN kind & 15
        WHEN kind BETWEEN 160 AND 191 THEN kind & 31
        ELSE 0
    END;
    FOR offset_ IN 1..sized LOOP
        size := size * 256 + get_byte(packed, at + offset_);
    END LOOP;
    next := at + 1 + sized;
    IF kind < 128 THEN
        value := to_jsonb(kind);
    ELSIF kind < 144 OR kind IN (222, 223) THEN
        value := '{}';
        FOR _ IN 1..size LOOP
            SELECT * INTO inner_key FROM toril._unpacked(packed, next);
            SELECT * INTO inner_value FROM toril._unpacked(packed, inner_key.next);
            value := value || jsonb_build_object(inner_key.value #>> '{}', inner_value.value);
            next := inner_value.next;
        END LOOP;
    ELSIF kind < 160 OR kind IN (220, 221) THEN
        value := '[]';
        FOR _ IN 1..size LOOP
            SELECT * INTO inner_value FROM toril._unpacked(packed, next);
            value := value || jsonb_build_array(inner_value.value);
            next := inner_value.next;
        END LOOP;
    ELSIF kind < 192 OR kind IN (217, 218, 219) THEN
        part := substring(packed FROM next + 1 FOR size);
        WHILE position('\x00'::bytea IN part) > 0 LOOP  -- JSON in PostgreSQL holds no NUL
            part := set_byte(part, position('\x00'::bytea IN part) - 1, 63);
        END LOOP;
        value := to_jsonb(convert_from(part, 'UTF8'));
        next := next + size;
    ELSIF kind IN (196, 197, 198) THEN
        value := to_jsonb(size);
        next := next + size;
    ELSIF kind = 192 THEN
        value := 'null';
    ELSIF kind IN (194, 195) THEN
        value := to_jsonb(kind = 195);
    ELSIF kind IN (204, 205, 206) THEN
        size := 0;
        FOR offset_ IN 1..(1 << (kind - 204)) LOOP
            size := size * 256 + get_byte(packed, at + offset_);
        END LOOP;
        value := to_jsonb(size);
        next := at + 1 + (1 << (kind - 204));
    ELSE
        RAISE EXCEPTION 'a value of kind % is not expected here', kind;
    END IF;
END $$;
