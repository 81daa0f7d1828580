// Package sqlledger is a ledger of package upgrade in the database that the steps change, here
// PostgreSQL: a step and the record of its end are one transaction. It is an example to copy.
//
// What that is good for: a step that was interrupted has changed nothing, so that it may run
// again; a node that was paused in the middle cannot commit once another has claimed the step; and
// a database that is restored from a backup comes back with the records that belong to it.
package sqlledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/node"
)

// Ledger keeps the records in the table muster_ledger of a PostgreSQL database.
type Ledger struct{ db *sql.DB }

// New makes the table if it is missing. Any number of processes may do so at once.
func New(ctx context.Context, db *sql.DB) (*Ledger, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	// CREATE TABLE IF NOT EXISTS alone fails where two do it at once.
	if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtext('muster_ledger'))`); err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS muster_ledger (
		key text PRIMARY KEY, value bytea NOT NULL, revision bigint NOT NULL)`)
	if err != nil {
		return nil, err
	}
	return &Ledger{db}, tx.Commit()
}

type txKey struct{}

// Tx is the transaction that a step belongs to, whose context this is. Do not end it.
func Tx(ctx context.Context) *sql.Tx {
	tx, _ := ctx.Value(txKey{}).(*sql.Tx)
	return tx
}

// Transact runs f in a transaction.
func (l *Ledger) Transact(ctx context.Context, f func(context.Context) error) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(context.WithValue(ctx, txKey{}, tx)); err != nil {
		return err
	}
	return tx.Commit()
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func (l *Ledger) in(ctx context.Context) querier {
	if tx := Tx(ctx); tx != nil {
		return tx
	}
	return l.db
}

// Get returns the record at key.
func (l *Ledger) Get(ctx context.Context, key string) (node.Record, error) {
	r := node.Record{Key: key}
	err := l.in(ctx).QueryRowContext(ctx,
		`SELECT value, revision FROM muster_ledger WHERE key = $1`, key).Scan(&r.Value, &r.Revision)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: %s", discovery.ErrNotFound, key)
	}
	return r, err
}

// Set writes value if the revision is still prev.
func (l *Ledger) Set(ctx context.Context, key string, value []byte, prev node.Revision) (rev node.Revision, err error) {
	query := `UPDATE muster_ledger SET value = $2, revision = revision + 1 WHERE key = $1 AND revision = $3 RETURNING revision`
	args := []any{key, value, prev}
	if prev == 0 {
		query = `INSERT INTO muster_ledger (key, value, revision) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING RETURNING revision`
		args = args[:2]
	}
	err = l.in(ctx).QueryRowContext(ctx, query, args...).Scan(&rev)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: %s", discovery.ErrConflict, key)
	}
	return rev, err
}
