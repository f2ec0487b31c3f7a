package pgtest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
)

// TestExample is what a test with a database of its own looks like.
func TestExample(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), pgtest.Empty(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var sum int
	if err := conn.QueryRow(t.Context(), "SELECT 40 + 2").Scan(&sum); err != nil {
		t.Fatal(err)
	}
	if sum != 42 {
		t.Errorf("got %d", sum)
	}
}
