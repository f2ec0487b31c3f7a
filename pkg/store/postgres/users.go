package postgres

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/changes"
)

var _ account.Store = (*Store)(nil)

const userColumns = `id::text, email, name, role, disabled, created_at, updated_at`

func scanUser(row pgx.CollectableRow) (u account.User, err error) {
	err = row.Scan(&u.ID, &u.Email, &u.Name, &u.Role, &u.Disabled, &u.CreatedAt, &u.UpdatedAt)
	return u, err
}

// oneUser runs a query that returns at most one user.
func oneUser(ctx context.Context, q Querier, sql string, args ...any) (account.User, error) {
	return One(ctx, q, scanUser, account.ErrNotFound, sql, args...)
}

// InsertUser implements account.Store.
func (s *Store) InsertUser(ctx context.Context, u account.User, passwordHash string, c changes.Change) error {
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO users (id, email, name, role, disabled, password_hash, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			u.ID, u.Email, u.Name, u.Role, u.Disabled, passwordHash, u.CreatedAt, u.UpdatedAt)
		if Violates(err, "users_email_unique") {
			return account.ErrEmailTaken.With(err)
		}
		return err
	})
	return err
}

// User implements account.Store.
func (s *Store) User(ctx context.Context, id string) (account.User, error) {
	if !IsUUID(id) {
		return account.User{}, account.ErrNotFound
	}
	u, err := oneUser(ctx, s.pool, `SELECT `+userColumns+` FROM users WHERE id = $1`, id)
	return u, unavailable(err)
}

// UserByEmail implements account.Store.
func (s *Store) UserByEmail(ctx context.Context, email string) (account.User, string, error) {
	if !storable(email) {
		return account.User{}, "", account.ErrNotFound
	}
	var (
		u    account.User
		hash string
	)
	err := s.pool.QueryRow(ctx, `SELECT `+userColumns+`, password_hash FROM users WHERE email = $1`, email).
		Scan(&u.ID, &u.Email, &u.Name, &u.Role, &u.Disabled, &u.CreatedAt, &u.UpdatedAt, &hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return account.User{}, "", account.ErrNotFound
	}
	return u, hash, unavailable(err)
}

// PasswordHash implements account.Store.
func (s *Store) PasswordHash(ctx context.Context, id string) (hash string, err error) {
	if !IsUUID(id) {
		return "", account.ErrNotFound
	}
	err = s.pool.QueryRow(ctx, `SELECT password_hash FROM users WHERE id = $1`, id).Scan(&hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", account.ErrNotFound
	}
	return hash, unavailable(err)
}

// ListUsers implements account.Store.
func (s *Store) ListUsers(ctx context.Context, f account.Filter) ([]account.User, error) {
	if !storable(f.Query, string(f.Role)) || f.Before != "" && !IsUUID(f.Before) {
		return nil, nil
	}
	var w Where
	if f.Query != "" {
		pattern := "%" + escapeLike(f.Query) + "%"
		// Addresses are stored in lower case. Names are lowered by the database, on
		// both sides alike: which letters it knows depends on its locale.
		w.Add(`(email LIKE ? OR lower(name) LIKE lower(?))`, strings.ToLower(pattern), pattern)
	}
	if f.Role != "" {
		w.Add(`role = ?`, f.Role)
	}
	if f.Before != "" {
		w.Add(`id < ?`, f.Before)
	}
	return Many(ctx, s.pool, scanUser, `SELECT `+userColumns+` FROM users`+w.SQL()+` ORDER BY id DESC LIMIT `+w.Arg(f.Limit), w.Args...)
}

// UpdateUser implements account.Store.
func (s *Store) UpdateUser(ctx context.Context, id string, p account.Patch, at time.Time, c changes.Change) (u account.User, err error) {
	if !IsUUID(id) {
		return u, account.ErrNotFound
	}
	_, err = s.Change(ctx, c, func(tx pgx.Tx) error {
		demotes := p.Role != nil && *p.Role != access.RoleAdmin || p.Disabled != nil && *p.Disabled
		if demotes {
			if err := keepAnAdmin(ctx, tx, id); err != nil {
				return err
			}
		}
		u, err = oneUser(ctx, tx, `
			UPDATE users SET name = coalesce($2, name), role = coalesce($3, role),
				disabled = coalesce($4, disabled), updated_at = $5
			WHERE id = $1 RETURNING `+userColumns, id, p.Name, p.Role, p.Disabled, at)
		if err != nil {
			return err
		}
		if u.Disabled {
			_, err = tx.Exec(ctx, `UPDATE sessions SET ended_at = $2 WHERE user_id = $1 AND ended_at IS NULL`, id, at)
		}
		return err
	})
	return u, err
}

// DeleteUser implements account.Store.
func (s *Store) DeleteUser(ctx context.Context, id string, c changes.Change) error {
	if !IsUUID(id) {
		return account.ErrNotFound
	}
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		if err := keepAnAdmin(ctx, tx, id); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM users WHERE id = $1`, id)
		if err == nil && tag.RowsAffected() == 0 {
			return account.ErrNotFound
		}
		return err
	})
	return err
}

// keepAnAdmin returns ErrLastAdmin when id is the only active admin. It locks
// all active admins in order of their ids: of two transactions that would each
// leave the other's admin, the second waits and then counts again.
func keepAnAdmin(ctx context.Context, tx pgx.Tx, id string) error {
	rows, err := tx.Query(ctx, `SELECT id::text FROM users WHERE role = 'admin' AND NOT disabled ORDER BY id FOR UPDATE`)
	if err != nil {
		return err
	}
	admins, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(admins) == 1 && admins[0] == id {
		return account.ErrLastAdmin
	}
	return nil
}

// SetPassword implements account.Store.
func (s *Store) SetPassword(ctx context.Context, id, passwordHash, keepSession string, at time.Time, c changes.Change) error {
	if !IsUUID(id) {
		return account.ErrNotFound
	}
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE users SET password_hash = $2, updated_at = $3 WHERE id = $1`, id, passwordHash, at)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return account.ErrNotFound
		}
		_, err = tx.Exec(ctx, `
			UPDATE sessions SET ended_at = $3 WHERE user_id = $1 AND id::text <> $2 AND ended_at IS NULL`, id, keepSession, at)
		return err
	})
	return err
}

// Rehash implements account.Store.
func (s *Store) Rehash(ctx context.Context, id, old, hash string) error {
	_, err := s.pool.Exec(ctx, `UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2`, id, old, hash)
	return unavailable(err)
}
