// Matrices of 8 × 8, as the adapter's units multiply them. gpu/tensor_cores.rs makes 16 × 16 of it.
enable f16;
enable wgpu_cooperative_matrix;

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
const SIZE: u32 = 8u;

