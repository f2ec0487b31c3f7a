package chain

import (
	"errors"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	policyquota "github.com/keywarden/keywarden/pkg/gateway/policy/quota"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// errNoLedger is a wiring mistake.
var errNoLedger = errors.New("this gateway has no ledger for quotas")

// quota makes the step of the quotas of a route.
func (d *Document) quota(route string, list *policies.Quotas) (policy.Step, error) {
	if d.Quotas == nil {
		return policy.Step{}, errNoLedger
	}
	quotas := make([]policyquota.Quota, len(list.Quotas))
	for i := range list.Quotas {
		of := &list.Quotas[i]
		period, err := periodOf(of)
		if err != nil {
			return policy.Step{}, err
		}
		scope := route
		if of.Shared {
			scope = ""
		}
		what := quota.Quota{Name: of.Name, Limit: of.Limit, Period: period, Open: of.WhenUnavailable == policies.UnavailableAllow}
		meter, err := d.Quotas.Meter(what, scope, of.By)
		if err != nil {
			return policy.Step{}, err
		}
		subject, err := subjectOf(&of.Subject, route)
		if err != nil {
			return policy.Step{}, err
		}
		cost, err := costOf(&of.Cost)
		if err != nil {
			return policy.Step{}, err
		}
		quotas[i] = policyquota.Quota{Meter: meter, Subject: subject, Cost: cost, CostHeader: of.CostResponseHeader}
	}
	return policyquota.New(quotas, d.now)
}

func periodOf(q *policies.Quota) (p quota.Period, err error) {
	p.Rolling = q.Rolling
	if p.Zone, err = time.LoadLocation(q.TimeZone); err != nil {
		return p, err
	}
	switch q.Period {
	case policies.PeriodMinute:
		p.Unit = quota.Minute
	case policies.PeriodHour:
		p.Unit = quota.Hour
	case policies.PeriodDay:
		p.Unit = quota.Day
	case policies.PeriodWeek:
		p.Unit = quota.Week
	default:
		p.Unit = quota.Month
	}
	return p, nil
}
