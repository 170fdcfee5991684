-- Times are microseconds since the Unix epoch. JSON is text.

-- Every version of a contract that was ever accepted; at most one of a name is in force.
CREATE TABLE contracts (
  name TEXT NOT NULL,
  number BIGINT NOT NULL,
  version TEXT NOT NULL,
  digest TEXT NOT NULL,
  origin TEXT NOT NULL,
  source TEXT NOT NULL,
  policies TEXT NOT NULL,
  accepted_at BIGINT NOT NULL,
  in_force BIGINT NOT NULL,
  PRIMARY KEY (name, number)
);

-- Up to where each shard has read a source, with all that followed from it.
CREATE TABLE positions (
  source TEXT NOT NULL,
  shard BIGINT NOT NULL,
  shards BIGINT NOT NULL,
  position BIGINT NOT NULL,
  PRIMARY KEY (source, shard)
);

-- Engine state. One row an application; series and panes as rows of their own.
CREATE TABLE applications (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  source TEXT NOT NULL,
  position BIGINT NOT NULL,
  -- Greatest event time, and start of the oldest pane that open windows still need.
  clock_at BIGINT NOT NULL,
  needed_at BIGINT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (tenant, application)
);
CREATE TABLE series (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  objective TEXT NOT NULL,
  input TEXT NOT NULL,
  series TEXT NOT NULL,
  labels TEXT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (contract, objective, input, series, tenant, application)
);
CREATE TABLE panes (
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
);
CREATE INDEX panes_by_age ON panes (tenant, application, start_at);
CREATE TABLE seen_ids (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  position BIGINT NOT NULL,
  newest_at BIGINT NOT NULL,
  ids BLOB NOT NULL,
  PRIMARY KEY (tenant, application, position)
);

-- What was found, and what followed.
CREATE TABLE violations (
  id TEXT NOT NULL PRIMARY KEY,
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  version TEXT NOT NULL,
  objective TEXT NOT NULL,
  series TEXT NOT NULL,
  severity TEXT NOT NULL,
  responsible TEXT,
  state TEXT NOT NULL,
  opened_at BIGINT NOT NULL,
  resolved_at BIGINT,
  acknowledged_at BIGINT,
  acknowledged_by TEXT,
  acknowledged_note TEXT
);
CREATE INDEX violations_by_time ON violations (opened_at, id);
CREATE TABLE transitions (
  violation TEXT NOT NULL,
  state TEXT NOT NULL,
  at BIGINT NOT NULL,
  recorded_at BIGINT NOT NULL,
  detail TEXT NOT NULL,
  PRIMARY KEY (violation, state)
);
CREATE TABLE actions (
  id TEXT NOT NULL PRIMARY KEY,
  violation TEXT NOT NULL,
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  objective TEXT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  params TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT,
  at BIGINT NOT NULL,
  approved_by TEXT
);
CREATE INDEX actions_by_violation ON actions (violation);
CREATE INDEX actions_by_time ON actions (at, id);
CREATE TABLE outcomes (
  action TEXT NOT NULL,
  state TEXT NOT NULL,
  at BIGINT NOT NULL,
  message TEXT,
  PRIMARY KEY (action, state)
);

-- The outbox: what is to leave, has left, or could not.
CREATE TABLE deliveries (
  id TEXT NOT NULL PRIMARY KEY,
  event TEXT NOT NULL,
  violation TEXT NOT NULL,
  kind TEXT NOT NULL,
  destination TEXT NOT NULL,
  secret_env TEXT,
  body TEXT NOT NULL,
  state TEXT NOT NULL,
  attempts BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  next_at BIGINT NOT NULL,
  done_at BIGINT,
  error TEXT
);
CREATE INDEX deliveries_due ON deliveries (state, next_at);
CREATE INDEX deliveries_by_violation ON deliveries (violation);

-- Without NATS, reports wait here; with it, in JetStream.
CREATE TABLE journal (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  body TEXT NOT NULL
);
