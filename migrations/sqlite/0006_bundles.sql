-- Series that are counted together are stored together, some in one row, and so are their panes.
-- What series remember beyond panes lies beside. Windows that are open when a database is brought
-- up to this begin anew; violations go on.
ALTER TABLE series RENAME TO single_series;
CREATE TABLE series (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  bundle TEXT NOT NULL,
  chunk BIGINT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (contract, tenant, application, bundle, chunk)
) WITHOUT ROWID;
INSERT INTO series SELECT tenant, application, contract, '', ROW_NUMBER() OVER (), json_object(
  'objectives', json_array(json_array(objective, input)),
  'labels', (SELECT json_group_array(key) FROM json_each(labels)),
  'series', json_array(json_object('key', json(series), 'last_data', json_extract(state, '$.last_data'), 'members', json_array(json_object(
    'first', json_extract(state, '$.first'), 'last_data', json_extract(state, '$.last_data'), 'lifecycle', json_extract(state, '$.lifecycle'))))))
  FROM single_series;
CREATE TABLE memories (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  objective TEXT NOT NULL,
  input TEXT NOT NULL,
  series TEXT NOT NULL,
  labels TEXT NOT NULL,
  memory TEXT NOT NULL,
  PRIMARY KEY (contract, objective, input, series, tenant, application)
) WITHOUT ROWID;
INSERT INTO memories SELECT tenant, application, contract, objective, input, series, labels, memory FROM single_series
  WHERE memory IS NOT NULL;
DROP TABLE single_series;
DROP TABLE panes;
CREATE TABLE panes (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  bundle TEXT NOT NULL,
  chunk BIGINT NOT NULL,
  start_at BIGINT NOT NULL,
  state BLOB NOT NULL,
  PRIMARY KEY (contract, tenant, application, bundle, chunk, start_at)
) WITHOUT ROWID;
CREATE INDEX panes_by_age ON panes (start_at);
