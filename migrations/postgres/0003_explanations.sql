-- What every stage, instance and label set observed: panes of sums, for explanations. With a test,
-- samples counts the observations that break it, or that are of this class.
CREATE TABLE slices (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  attribute TEXT NOT NULL,
  start_at BIGINT NOT NULL,
  width BIGINT NOT NULL,
  stage TEXT NOT NULL,
  instance TEXT NOT NULL,
  slice TEXT NOT NULL,
  test TEXT NOT NULL,
  samples BIGINT NOT NULL,
  total DOUBLE PRECISION NOT NULL,
  squares DOUBLE PRECISION NOT NULL,
  least DOUBLE PRECISION NOT NULL,
  greatest DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (tenant, application, attribute, start_at, slice, test, width)
);
CREATE INDEX slices_by_time ON slices (tenant, application, start_at);

-- The same by the hour, for long periods.
CREATE TABLE slice_hours (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  attribute TEXT NOT NULL,
  start_at BIGINT NOT NULL,
  slice TEXT NOT NULL,
  test TEXT NOT NULL,
  samples BIGINT NOT NULL,
  total DOUBLE PRECISION NOT NULL,
  squares DOUBLE PRECISION NOT NULL,
  least DOUBLE PRECISION NOT NULL,
  greatest DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (tenant, application, attribute, start_at, slice, test)
);

-- Up to where panes of slices were added up by the hour; the newest hour may be added up in part.
CREATE TABLE rolled_up (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  until_at BIGINT NOT NULL,
  PRIMARY KEY (tenant, application)
);

-- Steps of requests, as many as are kept, and what turned out to be true.
CREATE TABLE steps (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  id TEXT NOT NULL,
  request TEXT,
  -- In 0..1000, alike for all steps of a request: to read a part of them.
  draw BIGINT NOT NULL,
  inference TEXT,
  start_at BIGINT NOT NULL,
  end_at BIGINT NOT NULL,
  slice TEXT NOT NULL,
  metrics TEXT NOT NULL,
  prediction TEXT,
  sources TEXT NOT NULL,
  upstream TEXT NOT NULL,
  PRIMARY KEY (tenant, application, id)
);
CREATE INDEX steps_by_request ON steps (request);
CREATE INDEX steps_by_inference ON steps (inference);
CREATE INDEX steps_by_time ON steps (tenant, application, end_at, draw);
CREATE TABLE truths (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  inference TEXT NOT NULL,
  truth TEXT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (tenant, application, inference)
);
CREATE INDEX truths_by_time ON truths (tenant, application, at);

-- Verdicts by objective and minute of the window ends.
CREATE TABLE tallies (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  contract TEXT NOT NULL,
  objective TEXT NOT NULL,
  start_at BIGINT NOT NULL,
  met BIGINT NOT NULL,
  breached BIGINT NOT NULL,
  no_data BIGINT NOT NULL,
  insufficient BIGINT NOT NULL,
  error BIGINT NOT NULL,
  PRIMARY KEY (contract, objective, start_at, tenant, application)
);
CREATE INDEX tallies_by_age ON tallies (start_at);
