package pglocal_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/keywarden/keywarden/pkg/pglocal"
)

// A program starts its database first and stops it last.
func Example() {
	ctx := context.Background()
	server, err := pglocal.Start(ctx, pglocal.Options{DataDir: "/var/lib/keywarden/postgres", Logger: slog.Default()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer func() { _ = server.Stop(ctx) }()

	fmt.Println("connect to", server.URL())
	<-server.Done() // It ended by itself, or Stop was called.
	if err := server.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
