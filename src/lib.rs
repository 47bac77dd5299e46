pub mod settings {}
