-- A store as the first layout had it, kept as it was so that the way up from it stays tested.
CREATE TABLE store (id TEXT NOT NULL);
INSERT INTO store VALUES ('5eed0000-0000-4000-8000-000000000001');
CREATE TABLE records (name TEXT PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL);
CREATE TABLE leases (
    name TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT NOT NULL, expires INTEGER NOT NULL);
CREATE TABLE tokens (last INTEGER NOT NULL);
INSERT INTO tokens VALUES (0);
CREATE TABLE operations (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, verb TEXT NOT NULL, who TEXT NOT NULL,
    began TEXT NOT NULL, ended TEXT, was INTEGER, wanted INTEGER, outcome TEXT);
CREATE INDEX operations_by_set ON operations (name, number);
PRAGMA user_version = 1;
