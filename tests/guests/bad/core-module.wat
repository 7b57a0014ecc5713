;; A core module: what a compiler makes before it is made a component.
(module
  (memory (export "memory") 1)
  (func (export "handle") (param i32 i32)))
