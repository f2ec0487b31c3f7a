package catalogapi

import (
	"fmt"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/nearest"
)

// Warning is about something that is accepted, and may be a mistake.
type Warning struct {
	Field  string `json:"field" example:"routes[0]"`
	Detail string `json:"detail" example:"the gateway document in force has no route or API of this name, did you mean people?"`
}

// whole is how operators are shown products: all of them, with the names that open
// nothing. A product may be there before its routes, so that these are no errors.
func (h *Admin) whole() func(catalog.Product) Product {
	routes, known := h.Routes()
	opens := map[string]bool{}
	var names []string // once each, for suggestions
	for _, route := range routes {
		for name := range access.Names(route) {
			if !opens[name] {
				opens[name] = true
				names = append(names, name)
			}
		}
	}
	return func(p catalog.Product) Product {
		out := showProduct(p)
		out.ID, out.Visible = p.ID, &p.Visible
		for i, r := range p.Routes {
			if known && !opens[r] {
				out.Warnings = append(out.Warnings, Warning{
					Field:  fmt.Sprintf("routes[%d]", i),
					Detail: "the gateway document in force has no route or API of this name" + nearest.Question(r, names),
				})
			}
		}
		return out
	}
}
