-- Contracts name baselines and schemas beside scripts.
ALTER TABLE contracts RENAME COLUMN policies TO files;

-- What a series remembers beyond its panes: a baseline, a change detector, earlier windows.
ALTER TABLE series ADD COLUMN memory TEXT;

-- Inferences and feedback that wait for each other, and what was counted for other instances:
-- changes in the order they came about, as JSON.
CREATE TABLE joins (
  tenant TEXT NOT NULL,
  application TEXT NOT NULL,
  position BIGINT NOT NULL,
  newest_at BIGINT NOT NULL,
  entries TEXT NOT NULL,
  PRIMARY KEY (tenant, application, position)
);
