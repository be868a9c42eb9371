-- The tables of SQL enqueue. Callers get no right to any of them: the functions run as their owner.

-- The targets that toril's instances have. An instance writes its own, and removes one that no instance has had for a
-- while. With all instances away they stay, so that envelopes are accepted meanwhile.
CREATE TABLE toril.targets (
    name text COLLATE "C" PRIMARY KEY,
    max_attempts integer NOT NULL,
    max_body bigint NOT NULL,
    auth text NOT NULL,        -- the scheme of the target's auth
    own_header text,           -- the header that this scheme sets
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Deliveries that were accepted here and have no job in their queue yet. A row is removed in the transaction that adds
-- the job, by whichever instance has locked it.
CREATE TABLE toril.unqueued (
    target text COLLATE "C" NOT NULL,
    job_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (target, job_id)
);

-- Until when callers need not notify. One row.
CREATE TABLE toril.attention (until timestamptz NOT NULL);
INSERT INTO toril.attention VALUES ('-infinity');

-- One row; `ledger` is the schema with the tables of the ledger that this belongs to.
CREATE TABLE toril.version (version integer NOT NULL, ledger text NOT NULL);

-- A role needs USAGE to call a function of the schema. It gives no right to any table or function in it.
GRANT USAGE ON SCHEMA toril TO PUBLIC;
