-- What rules remember of events: for `count`, `all` and `at_most`, a row for each key.

CREATE TABLE rule_windows (
    rule   TEXT NOT NULL,
    kind   TEXT NOT NULL,
    name   TEXT NOT NULL,
    stamp  TEXT NOT NULL,
    state  TEXT NOT NULL,
    ends_at BIGINT NOT NULL,
    PRIMARY KEY (rule, kind, name)
);
CREATE INDEX rule_windows_by_end ON rule_windows (ends_at);
