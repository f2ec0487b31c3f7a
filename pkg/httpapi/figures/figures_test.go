package figures

import (
	"context"
	"errors"
	"testing"

	"github.com/keywarden/keywarden/pkg/problem"
)

type dimension string

// Whoever waits for a place may leave.
func TestQuestionsAreNotAskedAllAtOnce(t *testing.T) {
	asked := 0
	ask := func(_ context.Context, q int) (int, error) { asked++; return q, nil }
	g := NewGate(1)
	g <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, g, ask, 7); !errors.Is(err, context.Canceled) || asked != 0 {
		t.Errorf("%v after %d questions", err, asked)
	}
	<-g
	if got, err := Read(t.Context(), g, ask, 7); err != nil || got != 7 || asked != 1 || len(g) != 0 {
		t.Errorf("%d, %v after %d questions, %d places taken", got, err, asked, len(g))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("from=2030-01-01T00:00:00Z&by=user,key&top=5&user_id=x&step=hour")
	f.Add("a;b=%zz&%ff=1&by=,&top=-1")
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := Parse(raw, []dimension{"user", "key", "route"}, "sort")
		if err != nil {
			if !errors.Is(err, problem.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		by, filter, top := p.By(), p.Filter(), p.Top(200)
		if len(by) > 3 || len(filter) > 3 || top < 1 || top > 200 || len(p.wrong) > maxNotes {
			t.Errorf("by %v, filter %v, top %d, %d notes", by, filter, top, len(p.wrong))
		}
		if step := Choice(p, "step", "", "hour", "day"); step != "" && step != "hour" && step != "day" {
			t.Errorf("step %q", step)
		}
	})
}
