-- Rows lie in their primary key: one place to write instead of two.
CREATE TABLE compact_series (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  objective TEXT NOT NULL,
  input TEXT NOT NULL,
  series TEXT NOT NULL,
  labels TEXT NOT NULL,
  state TEXT NOT NULL,
  memory TEXT,
  PRIMARY KEY (contract, objective, input, series, tenant, application)
) WITHOUT ROWID;
INSERT INTO compact_series SELECT tenant, application, contract, objective, input, series, labels, state, memory FROM series;
DROP TABLE series;
ALTER TABLE compact_series RENAME TO series;
CREATE TABLE compact_panes (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  objective TEXT NOT NULL,
  input TEXT NOT NULL,
  measure TEXT NOT NULL,
  series TEXT NOT NULL,
  start_at BIGINT NOT NULL,
  samples BIGINT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (contract, objective, input, measure, series, start_at, tenant, application)
) WITHOUT ROWID;
INSERT INTO compact_panes SELECT tenant, application, contract, objective, input, measure, series, start_at, samples, state FROM panes;
DROP TABLE panes;
ALTER TABLE compact_panes RENAME TO panes;
CREATE INDEX panes_by_age ON panes (start_at);
