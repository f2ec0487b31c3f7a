package doctor

import (
	"context"
	"errors"
	"fmt"

	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/store/postgres/inspect"
)

// StoredDocument reads the gateway document in force from the database. Where there is
// none to look at, it returns the check that says why.
func StoredDocument(ctx context.Context, database seal.Secret) (doc spec.Document, source string, why *Check) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	refused := func(f Finding) (spec.Document, string, *Check) {
		c := Known("gateway document", f)
		return spec.Document{}, "", &c
	}
	db, err := inspect.Open(ctx, database)
	if err != nil {
		return refused(skipped("", "it is in the database, which cannot be reached", ""))
	}
	defer db.Close(context.WithoutCancel(ctx))
	number, text, err := db.CurrentDocument(ctx)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return refused(failed("", "the database did not give it within "+DefaultTimeout.String(), "Look for locks: docs/runbooks/database-down.md."))
	case err != nil:
		return refused(failed("", err.Error(), "The role must be able to read gateway_current and gateway_revisions."))
	case number == 0:
		return refused(warning("", "the database has none yet: every request to the gateway is answered 404", "Put the first one: keywarden config apply gateway.yaml"))
	}
	doc, err = revision.Revision{Number: number, Document: text}.Parse()
	if err != nil {
		return refused(failed("", "the one in force cannot be read by this version: "+err.Error(),
			"Run the version that wrote it, or put an earlier one in force: keywarden config revisions, then keywarden config rollback NUMBER"))
	}
	return doc, fmt.Sprintf("revision %d", number), nil
}
