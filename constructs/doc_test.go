package constructs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestFieldsAndMethodsAreDocumented: the linter sees to functions and types, not to what is inside of them.
func TestFieldsAndMethodsAreDocumented(t *testing.T) {
	names, _ := filepath.Glob("*.go")
	props := 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(node ast.Node) bool {
			spec, ok := node.(*ast.TypeSpec)
			if !ok || !spec.Name.IsExported() {
				return true
			}
			var fields []*ast.Field
			isProps := strings.HasSuffix(spec.Name.Name, "Props")
			switch kind := spec.Type.(type) {
			case *ast.StructType:
				fields = kind.Fields.List
			case *ast.InterfaceType:
				fields = kind.Methods.List
			}
			for _, field := range fields {
				for _, name := range field.Names {
					if !name.IsExported() {
						continue
					}
					text := field.Doc.Text()
					if !strings.HasPrefix(text, name.Name+" ") {
						t.Errorf("%s.%s: its comment begins with %.30q, not with its name", spec.Name, name, text)
					}
					if isProps {
						props++
						if !strings.Contains(text, "Required.") && !strings.Contains(text, "Default: ") {
							t.Errorf("%s.%s: neither Required nor a Default", spec.Name, name)
						}
					}
				}
			}
			return true
		})
	}
	if props < 20 {
		t.Errorf("%d props were looked at", props)
	}
}
