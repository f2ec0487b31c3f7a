package catalog

import (
	"context"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
)

// CreateApp makes an app of a user, or returns [ErrFull].
func (s *Service) CreateApp(ctx context.Context, owner, name, description string) (App, error) {
	id, now, err := s.fresh()
	if err != nil {
		return App{}, err
	}
	a := App{ID: id, UserID: owner, Name: name, Description: description, CreatedAt: now, UpdatedAt: now}
	if err := a.check(); err != nil {
		return App{}, err
	}
	return a, s.Store.InsertApp(ctx, a, s.AppsPerUser, changes.Change{
		Audit: audit.New(ctx, audit.AppCreated, kindApp, a.ID).With("owner", owner),
	})
}

// App returns an app of the owner; an empty owner may see every app. Another's app
// does not exist.
func (s *Service) App(ctx context.Context, owner, id string) (App, error) {
	a, err := s.Store.App(ctx, id)
	if err == nil && owner != "" && a.UserID != owner {
		return App{}, ErrApp
	}
	return a, err
}

// Apps returns apps, newest first.
func (s *Service) Apps(ctx context.Context, f AppFilter) ([]App, error) {
	return s.Store.ListApps(ctx, f)
}

// AppPatch changes an app; nil fields stay.
type AppPatch struct{ Name, Description *string }

// UpdateApp changes an app of the owner.
func (s *Service) UpdateApp(ctx context.Context, owner, id string, p AppPatch) (App, error) {
	return s.changeApp(ctx, owner, id, audit.AppUpdated, changes.Event{}, func(a *App) error {
		if p.Name != nil {
			a.Name = *p.Name
		}
		if p.Description != nil {
			a.Description = *p.Description
		}
		return a.check()
	})
}

// SuspendApp lets the keys of an app reach nothing until it is resumed.
func (s *Service) SuspendApp(ctx context.Context, id string) (App, error) {
	return s.changeApp(ctx, "", id, audit.AppSuspended, appEvent(id), func(a *App) error {
		if a.SuspendedAt == nil {
			now := s.now()
			a.SuspendedAt = &now
		}
		return nil
	})
}

// ResumeApp ends a suspension.
func (s *Service) ResumeApp(ctx context.Context, id string) (App, error) {
	return s.changeApp(ctx, "", id, audit.AppResumed, appEvent(id), func(a *App) error {
		a.SuspendedAt = nil
		return nil
	})
}

// DeleteApp ends an app of the owner for good: its keys are revoked and its
// subscriptions cancelled, at once.
func (s *Service) DeleteApp(ctx context.Context, owner, id string) error {
	a, err := s.App(ctx, owner, id)
	if err != nil {
		return err
	}
	c := changes.Change{Audit: audit.New(ctx, audit.AppDeleted, kindApp, id).With("owner", a.UserID), Event: appEvent(id)}
	if err := s.Store.DeleteApp(ctx, id, s.now(), c); err != nil {
		return err
	}
	s.Notify(c.Event)
	return nil
}

// changeApp edits an app. What changes nothing that its keys may has a zero event.
func (s *Service) changeApp(ctx context.Context, owner, id string, action audit.Action, event changes.Event, edit func(*App) error) (App, error) {
	a, err := s.Store.ChangeApp(ctx, id, func(a App) (App, changes.Change, error) {
		if owner != "" && a.UserID != owner {
			return a, changes.Change{}, ErrApp
		}
		if err := edit(&a); err != nil {
			return a, changes.Change{}, err
		}
		a.UpdatedAt = s.now()
		return a, changes.Change{Audit: audit.New(ctx, action, kindApp, id).With("owner", a.UserID), Event: event}, nil
	})
	if err != nil {
		return App{}, err
	}
	if event.Kind != "" {
		s.Notify(event)
	}
	return a, nil
}

func appEvent(id string) changes.Event { return changes.Event{Kind: changes.AppChanged, Subject: id} }

// check cleans a in place, or names every wrong field.
func (a *App) check() error {
	var f faults
	f.text("name", &a.Name, maxTitle, true, false)
	f.text("description", &a.Description, maxDescription, false, true)
	return f.err()
}
