-- Series that are counted together are stored together, some in one row, and so are their panes.
-- What series remember beyond panes lies beside. Windows that are open when a database is brought
-- up to this begin anew; violations go on.
ALTER TABLE series RENAME TO single_series;
ALTER TABLE single_series RENAME CONSTRAINT series_pkey TO single_series_pkey;
CREATE TABLE series (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  bundle TEXT NOT NULL,
  chunk BIGINT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (contract, tenant, application, bundle, chunk)
);
INSERT INTO series SELECT tenant, application, contract, '', ROW_NUMBER() OVER (), json_build_object(
  'objectives', json_build_array(json_build_array(objective, input)),
  'labels', (SELECT COALESCE(json_agg(name), '[]') FROM json_object_keys(labels::json) name),
  'series', json_build_array(json_build_object('key', series::json, 'last_data', state::json->'last_data', 'members', json_build_array(json_build_object(
    'first', state::json->'first', 'last_data', state::json->'last_data', 'lifecycle', state::json->'lifecycle')))))::text
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
);
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
  state BYTEA NOT NULL,
  PRIMARY KEY (contract, tenant, application, bundle, chunk, start_at)
);
CREATE INDEX panes_by_age ON panes (tenant, application, start_at);
