package pgtest

import (
	"context"
	"testing"

	"github.com/keywarden/keywarden/migrations"
	"github.com/keywarden/keywarden/pkg/pglocal"
)

// Server is a server of one test's own, which it may stop and start again to see
// what an outage does. Its methods end the test when they fail.
type Server struct {
	tb      testing.TB
	url     string
	cluster *cluster
}

// NewServer starts a server for this test alone, with one migrated database. It
// needs PostgreSQL's programs also when TEST_DATABASE_URL is set. The end of the
// test stops it.
func NewServer(tb testing.TB) *Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), timeout)
	defer cancel()
	c, err := takeCluster(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, cluster: c}
	tb.Cleanup(s.give)
	h := c.host()
	template, err := h.ensureTemplate(ctx, migrations.FS)
	if err != nil {
		tb.Fatalf("prepare the template database: %v", err)
	}
	const name = databasePrefix + "own"
	if err := h.create(ctx, name, template); err != nil {
		tb.Fatalf("create the test database: %v", err)
	}
	s.url = h.url(name)
	return s
}

// URL addresses the migrated database. It stays the same over Stop and Start.
func (s *Server) URL() string { return s.url }

// Stop ends the server: connections are closed and new ones refused.
func (s *Server) Stop() {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := s.cluster.server.Stop(ctx); err != nil {
		s.tb.Fatal(err)
	}
}

// Start starts the stopped server again, with its data.
func (s *Server) Start() {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.tb.Context(), timeout)
	defer cancel()
	server, err := pglocal.Start(ctx, s.cluster.options())
	if err != nil {
		s.tb.Fatal(err)
	}
	s.cluster.server = server
}

func (s *Server) give() {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := s.cluster.give(ctx); err != nil {
		s.tb.Errorf("stop the test's server: %v", err)
	}
}
