package spec

// Headers is filled in by its owner.
type Headers struct {
	Gate
}

func (*Headers) validate(path string, v *validator) {}
