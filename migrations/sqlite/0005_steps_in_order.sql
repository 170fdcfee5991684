-- Steps lie in the order of their arrival, and so mostly of their time: those of a period are read together.
ALTER TABLE steps RENAME TO steps_by_id;
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
INSERT INTO steps SELECT * FROM steps_by_id ORDER BY end_at;
DROP TABLE steps_by_id;
CREATE INDEX steps_by_request ON steps (request);
CREATE INDEX steps_by_inference ON steps (inference);
CREATE INDEX steps_by_time ON steps (tenant, application, end_at, draw);
